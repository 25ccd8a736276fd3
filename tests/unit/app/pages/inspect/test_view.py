"""What the inspector counts, against brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from app.pages.find.active import surprise
from app.pages.inspect.view import (
    MEASURES,
    Counted,
    Reading,
    cells,
    differences,
    ranked,
    text_latents,
    token_bars,
)
from sae.store.build import Build
from tests.builds import make_build

TEXT = [b"<|bos|>", b"def", b" caf", b"\xc3", b"\xa9", b"\n"]


def reading(firings: list[list[tuple[int, float]]]) -> Reading:
    n = len(firings)
    at: dict[int, list[tuple[float, int]]] = {}
    for position, row in enumerate(firings[1:], 1):
        for latent, act in row:
            at.setdefault(latent, []).append((act, -position))
    counted = [Counted(latent, len(rows), max(rows)[0], -max(rows)[1], sum(act for act, _ in rows))
               for latent, rows in at.items()]
    return Reading(
        list(range(n)), TEXT[:n], [True, *[False] * (n - 1)], [len(row) for row in firings], firings, counted)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    path = tmp_path_factory.mktemp("build") / "b.duckdb"
    make_build(path, n_latents=40)
    build = Build.open(path)
    yield build
    build.close()


def test_latents_of_a_text_are_counted_without_bos(build: Build) -> None:
    text = reading([[(3, 9.0), (1, 2.0)], [(1, 1.5)], [], [(2, 4.0), (1, 0.5)], [(1, 1.5)], []])
    found = {row.latent: row for row in text_latents(text, build)}
    assert set(found) == {1, 2}
    one = found[1]
    assert (one.n, one.max, one.sum, one.peak) == (3, 1.5, 3.5, 1)
    latent = build.latent(1)
    assert latent is not None
    assert (one.density, one.max_act) == (latent.density, latent.max_act)
    assert one.surprise == surprise(3, 5, latent.density)
    everywhere = {row.latent: row for row in text_latents(text, build, special=True)}
    assert everywhere[3].peak == 0
    assert everywhere[1].max == 2.0
    assert text.l0 == [2, 1, 0, 2, 1, 0]


def test_a_latent_dead_in_the_build_still_has_a_surprise(build: Build) -> None:
    dead = next(i for i in range(40) if i not in build.firing_rates)
    found = text_latents(reading([[], [(dead, 1.0)], []]), build)
    assert math.isfinite(found[0].surprise)
    assert found[0].surprise > 5


@pytest.mark.parametrize("measure", MEASURES)
def test_ranking_and_leaving_dense_ones_out(build: Build, measure: str) -> None:
    text = reading([[], [(3, 9.0), (1, 2.0)], [(3, 1.0)], [(2, 4.0)]])
    rows = text_latents(text, build)
    order = ranked(rows, measure)
    assert [row.value(measure) for row in order] == sorted((row.value(measure) for row in rows), reverse=True)
    dense = {row.latent for row in rows if row.dense}
    assert dense == {3}
    assert {row.latent for row in ranked(rows, measure, dense=False)} == {1, 2}


def test_differences_are_signed_and_sums_are_per_token(build: Build) -> None:
    long = text_latents(reading([[], [(1, 2.0)], [(1, 2.0)], [], []]), build)
    short = text_latents(reading([[], [(1, 1.0), (2, 5.0)]]), build)
    by_max = differences(long, short, "max", (4, 1))
    assert [(d.latent, d.value) for d in by_max] == [(2, -5.0), (1, 1.0)]
    assert by_max[0].first is None
    by_sum = differences(long, short, "sum", (4, 1))
    assert [(d.latent, d.value) for d in by_sum] == [(2, -5.0), (1, 0.0)]
    assert all(d.value == 0 for d in differences(long, long, "surprise", (4, 4)))


def test_characters_split_over_tokens_are_one_cell_with_the_largest_l0(build: Build) -> None:
    text = reading([[(1, 1.0)], [], [], [(1, 2.0)], [(1, 1.0), (2, 0.5)], []])
    shown = cells(text, 2)
    assert [(c.piece.text, c.l0, c.position) for c in shown] == [
        ("<|bos|>", 1, 0), ("def", 0, 1), (" caf", 0, 2), ("é", 2, 3), ("↵", 0, 5)]
    coloured = cells(text, 2, latent=1, max_act=4.0)
    assert [c.piece.css != "" for c in coloured] == [True, False, False, True, False]


def test_bars_of_a_token(build: Build) -> None:
    text = reading([[], [(3, 9.0), (1, 3.0)]])
    bars = token_bars(text, 1, build, {1: "said"})
    assert [(b.latent, b.share, b.label) for b in bars] == [(3, 1.0, ""), (1, pytest.approx(1 / 3), "said")]
    assert bars[0].snippet is not None
    assert [b.latent for b in token_bars(text, 1, build, {}, dense=False)] == [1]
