"""Tests of the parts of the page of latents per token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.db.tables import Sae
from app.pages.explore import l0_views
from app.pages.explore.l0_views import Samples, SampleView, bos_words, counterparts, mean_and_spread, peers_of
from sae.store.build import Build
from sae.store.records import L0Count, Sample
from tests.builds import S, Synthetic
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.explore.records import sae


def catalog(*saes: Sae) -> Any:
    return SimpleNamespace(list_saes=lambda: list(saes))


def test_peers_are_indexed_saes_of_the_same_site() -> None:
    mine, peer = sae("mine"), sae("peer")
    elsewhere, foreign = sae("elsewhere", site={"layer": 2, "hook": "blocks.2.hook_mlp_out"}), sae("foreign")
    foreign.model = "gpt2"
    assert peers_of(catalog(mine, peer, elsewhere, foreign, sae("new", build=None)), mine) == [peer]


def test_another_architecture_with_the_nearest_k_is_laid_over() -> None:
    mine = sae("mine", k=32)
    same = sae("same", k=32)
    near, old, far = (sae(name, architecture="topk", k=k, created=created)
                      for name, k, created in (("near", 30, 2.0), ("old", 30, 1.0), ("far", 64, 9.0)))
    everything = catalog(mine, same, far, old, near)
    assert counterparts(everything, mine, []) == [near]
    assert counterparts(everything, mine, [""]) == []
    assert counterparts(everything, mine, [same.id, far.id, "demo/none"]) == [same, far]
    assert len(counterparts(everything, mine, [o.id for o in (same, far, old, near)])) == l0_views.MOST_OTHERS
    assert counterparts(catalog(mine, same), mine, []) == []


def test_mean_and_spread_are_over_tokens() -> None:
    assert mean_and_spread([L0Count(2, 3, 99), L0Count(6, 1, 0)]) == (3.0, pytest.approx(3**0.5))
    assert mean_and_spread([]) == (0.0, 0.0)


@pytest.mark.parametrize(("bos", "k", "words"), [
    (None, 32, ""), (8, 32, "so few suffice"), (8, None, "so few suffice"), (32, 32, "exactly k"),
    (900, 32, "attention sink")])
def test_the_peak_of_bos_is_explained(bos: int | None, k: int | None, words: str) -> None:
    assert words in bos_words(bos, k)
    assert bool(bos_words(bos, k)) == bool(words)


def test_the_mean_of_a_sample_leaves_bos_out() -> None:
    def mean(*l0: int) -> float:
        return SampleView(Sample(0, "any", 0, "", 0, [0] * len(l0), list(l0)), [], []).mean

    assert mean(99, 2, 4) == 3.0
    assert mean(99) == 0.0


def test_samples_are_shaded_in_units_of_their_largest_l0(build: Build, topk: Build) -> None:
    samples = Samples.read(build, topk)
    assert samples.count("any") == len(build.samples())
    assert samples.count("most") == 0
    shown = samples.texts("any", 2)
    assert len(shown) == 2
    assert all(view.other for view in shown), "the same text under the other SAE"
    assert all(not view.other for view in Samples.read(build, None).texts("any"))
    classes = {piece.css for view in shown for piece in [*view.pieces, *view.other]}
    assert "a15" in classes
    assert " latents · " in shown[0].pieces[5].title


def test_a_sample_of_another_text_is_not_shown_under_the_other_sae(build: Build) -> None:
    rows = build.samples()
    other = {rows[0].ctx: Sample(0, "any", rows[0].ctx, "", 0, rows[0].tokens[:-1], rows[0].l0[:-1])}
    assert [bool(view.other) for view in Samples(build, rows[:1], other).texts("any")] == [False]


def test_firings_are_those_of_the_activations(build: Build, made: dict[str, Synthetic]) -> None:
    sample = build.samples()[1]
    position = int(np.argmax(sample.l0[1:])) + 1
    acts = made[BATCH].acts[sample.ctx * S + position]
    found = l0_views.firings(build, sample.sample, position, {int(acts.argmax()): "said"})
    assert [one.latent for one in found] == np.argsort(-acts, kind="stable")[: int((acts > 0).sum())].tolist()
    assert (found[0].share, found[0].label) == (1.0, "said")
    assert found[-1].act == pytest.approx(float(acts[acts > 0].min()))
    assert l0_views.firings(build, 999, 0, {}) == []


def test_extremes_are_frequent_tokens_in_units_of_the_largest_mean(build: Build) -> None:
    most, fewest = l0_views.extremes(build, 5)
    assert len(most) == len(fewest) == 5
    assert most[0].share == 1.0
    assert [line.mean for line in most] == sorted((line.mean for line in most), reverse=True)
    assert [line.mean for line in fewest] == sorted(line.mean for line in fewest)
    assert min(line.n for line in [*most, *fewest]) >= 20


def test_charts_by_position_leave_bos_out(build: Build) -> None:
    chart = l0_views.position_chart({"one": build, "other": build})
    assert chart.count("<polyline") == 2
    assert "<title>0:" not in chart
    assert l0_views.fvu_chart({"one": build}) is None, "this build does not know it"
    assert 'class="c-bar' in l0_views.by_density_chart(build)
