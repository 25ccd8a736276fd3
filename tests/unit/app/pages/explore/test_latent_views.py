"""Tests of the parts of the latent table and of a latent's page."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Label
from app.pages.explore import latent_views
from sae.store.build import Build
from sae.store.records import Rule, TokenFirings
from sae.store.schema import NEAR_BAND
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.explore.records import latent


def test_near_misses_have_a_band_of_their_own(browsable: TestClient, made: dict[str, Synthetic]) -> None:
    with browsable.app.state.builds.use(BATCH, made[BATCH].path.stem) as build:  # type: ignore[attr-defined]
        some = build.contexts(9)[0]
    context = replace(some, band=NEAR_BAND, act=0.125, acts=[0.0] * len(some.tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.store.build.Build.windows", lambda *_: [context])
        patch.setitem(build.meta, "near", 0.1)
        page = browsable.get(f"/{BATCH}/9").text
    band = page[page.index("Near misses"):].partition("</ol>")[0]
    assert "within 10% of the threshold" in band
    assert "0.12" in band
    assert band.count(' peak"') == 1


# ---- without a page


def test_bands_come_strongest_first_and_say_their_interval(build: Build) -> None:
    one = build.latent(3)  # dense: it fires in every context
    assert one is not None
    found = latent_views.bands(build, one, "full", 3)
    assert (found[0].name, len(found)) == ("Top contexts", 5)
    assert [band.key for band in found] == sorted(band.key for band in found)
    for band in found:
        assert len(band.rows) == min(3, band.total)
        acts = [row.context.act for row in band.rows]
        assert acts == sorted(acts, reverse=True)
        assert f" to {acts[0]:.2f}" in band.values
        assert all(row.top == one.max_act for row in band.rows)
    assert "of its firings" in found[-1].values
    assert latent_views.bands(build, replace(one, latent=7), "short") == [], "it never fired"


def test_rows_of_a_short_list_have_context_label_and_logits(build: Build) -> None:
    (row,) = build.some([2])
    (shown,) = latent_views.table_rows(build, [row], {2: Label(text="said")})
    assert shown.snippet is not None
    assert shown.label is not None
    assert (shown.label.text, len(shown.top_logits), shown.rule) == ("said", 3, None)
    good, weak = (Rule("token", [5], None, f1, f1, f1) for f1 in (0.6, 0.4))
    assert [one.rule is not None for one in latent_views.table_rows(
        build, [replace(row, rule=good), replace(row, rule=weak)], {})] == [True, False]


def test_activations_are_drawn_between_the_filled_bins() -> None:
    meta = {"hist_low": 0.1, "hist_edges": [1.0, 10.0, 100.0, 1000.0]}
    chart = latent_views.activation_chart(latent(hist=[0, 3, 1, 0], n_tokens=4), meta, marked=20.0)
    assert "1 to 10: 3 · 75% of firings" in chart
    assert "10 to 100: 1 · 25% of firings" in chart
    assert "your text" in chart
    assert latent_views.activation_chart(latent(hist=None), meta) == ""
    assert latent_views.activation_chart(latent(hist=[1]), {"hist_low": None, "hist_edges": None}) == ""
    own = latent_views.activation_chart(latent(hist=[2, 2], hist_edges=[0.0, 1.0, 2.0]), meta)
    assert "log bins" not in own, "the file's own bins are linear"


def test_logit_effects_are_coloured_by_their_sign() -> None:
    chart = latent_views.logit_chart(latent(logit_hist=[0, 0, 2, 3, 0, 0]), {"logit_edges": [-3, -2, -1, 0, 1, 2, 3]})
    assert re.findall(r'class="c-bar (\w+)"', chart) == ["orange", "blue"]
    assert latent_views.logit_chart(latent(logit_hist=None), {"logit_edges": [0, 1]}) == ""


def test_tokens_are_listed_with_their_numbers(build: Build) -> None:
    one = latent(logit_pos=[(5, 2.0), (6, 1.0)], logit_neg=[(7, -4.0)],
                 top_tokens=[TokenFirings(5, 9, 3.0, 1.0)] * 20, next_tokens=[TokenFirings(6, 2, None, None)])
    adds, removes = latent_views.logit_lines(build, one)
    assert [(line.token, line.value, line.css) for line in [*adds, *removes]] == [
        (5, 2.0, "b4"), (6, 1.0, "b2"), (7, -4.0, "o7")]
    here, after = latent_views.firing_lines(build, one)
    assert (len(here), here[0].n, here[0].value, after[0].value) == (latent_views.TOKENS_LISTED, 9, 3.0, None)
    assert latent_views.logit_lines(build, latent()) == ([], [])


def test_band_limits_are_at_the_edges_where_the_index_cuts_them(build: Build) -> None:
    bands_of_bins = pytest.importorskip("sae.index.context_tables").bands_of_bins
    torch = pytest.importorskip("torch")
    meta = build.meta
    for hist in ([0, 3, 1, 4, 0, 9, 2, 1], [100, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 100], [0] * 8):
        edges = [float(2**i) for i in range(9)]
        one = latent(hist=hist, hist_edges=edges)
        drawn = {marker.x: marker.label for marker in latent_views._band_markers(one, meta, edges)}
        band_K = bands_of_bins(torch.tensor([hist]))[0].tolist()
        filled = [i for i, n in enumerate(hist) if n]
        changes = {edges[i] for before, i in pairwise(filled) if band_K[before] != band_K[i]}
        assert set(drawn) == changes
        assert set(drawn.values()) <= {"q25", "q50", "q75", "q95"}


def test_a_bin_has_the_contexts_that_peak_in_it_and_no_others(build: Build) -> None:
    one = build.latent(3)
    assert one is not None
    assert one.hist is not None
    stored = [c for c in build.contexts(3) if c.band != NEAR_BAND]
    bins = [latent_views.bin_contexts(build, one, "full", i) for i in range(len(one.hist))]
    counted = [row.context.act for found in bins if found for row in found.rows]
    assert sorted(counted) == sorted(c.act for c in stored), "every stored context is in one bin"
    for found in bins:
        assert found is not None
        acts = [row.context.act for row in found.rows]
        assert acts == sorted(acts, reverse=True)
        assert len(acts) <= found.firings
    assert latent_views.bin_contexts(build, one, "full", len(one.hist)) is None
    assert latent_views.bin_contexts(build, one, "full", None) is None
