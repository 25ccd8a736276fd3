"""Tests of the parts of the page of two compared SAEs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from app.pages.explore.compare_views import Sides, comparable, cosine_chart
from sae.errors import UserError
from sae.store.build import Build
from sae.store.comparison import Match, Split
from tests.unit.app.pages.explore.records import sae

MINE, OTHER, GONE = sae("mine"), sae("other"), sae("gone")


@pytest.fixture
def builds(build: Build) -> Any:
    @contextmanager
    def use(sae_id: str, build_id: str) -> Iterator[Build]:
        if sae_id == GONE.id:
            raise UserError("build: it no longer exists", "build")
        yield build

    return SimpleNamespace(use=use)


def test_cells_have_contexts_and_labels(builds: Any) -> None:
    cells = Sides(MINE, OTHER, builds, {MINE.id: {4: "said"}}).cells(MINE, [9, 4, 9])
    assert list(cells) == [4, 9]
    assert (cells[4].label, cells[9].label) == ("said", "")
    assert cells[4].snippet is not None
    assert Sides(MINE, OTHER, builds, {MINE.id: {4: "said"}}).cells(OTHER, [4])[4].label == ""


def test_without_a_build_there_are_numbers_alone(builds: Any) -> None:
    cells = Sides(GONE, OTHER, builds, {GONE.id: {4: "said"}}).cells(GONE, [4])
    assert (cells[4].latent, cells[4].snippet, cells[4].label) == (4, None, "said")


def test_a_best_match_is_shown_where_it_is_a_third_latent(builds: Any) -> None:
    matches = [Match(1, 10, [2, 3], [0.9, 0.1], 2, 0.5), Match(4, 10, [2, 3], [0.9, 0.1], 8, 0.5),
               Match(6, 10, [9, 3], [0.9, 0.1], None, 0.0)]
    lines = Sides(MINE, OTHER, builds, {}).pairs(matches)
    assert [(line.mine.latent, line.nearest.latent) for line in lines] == [(1, 2), (4, 2), (6, 9)]
    assert [line.best_match.latent if line.best_match else None for line in lines] == [None, 8, None]


def test_a_split_names_its_six_nearest_pieces(builds: Any) -> None:
    (line,) = Sides(MINE, OTHER, builds, {OTHER.id: {10: "fine"}}).split_lines(
        [Split(3, [(10 + i, 0.9 - i / 10) for i in range(8)])])
    assert line.coarse.latent == 3
    assert [(cell.latent, cosine) for cell, cosine in line.pieces] == [(10 + i, 0.9 - i / 10) for i in range(6)]
    assert line.pieces[0][0].label == "fine"


def histograms(first: list[int], second: list[int]) -> Any:
    def histogram(side: int) -> list[tuple[float, float, int]]:
        counts = (first, second)[side]
        return [(i / 4, (i + 1) / 4, n) for i, n in enumerate(counts)]

    return SimpleNamespace(histogram=histogram)


def test_the_chart_is_in_shares_and_ends_at_the_last_bin() -> None:
    chart = cosine_chart(histograms([0, 0, 1, 3], [0, 0, 0, 8]), 0, ["mine", "other"])
    assert "25%" in chart
    assert "75%" in chart
    assert "partner" in chart
    assert chart.count("c-outline c-o0") == 2, "in the plot and in the legend"
    assert "0 to 0.25" not in chart, "an empty start is cut off"
    assert "Nothing was counted" in cosine_chart(histograms([0] * 4, [0] * 4), 1, ["a", "b"])


def test_saes_of_one_model_and_width_compare() -> None:
    wide, foreign, board = sae("wide", d_model=512), sae("foreign"), sae("board", weights="none")
    foreign.model = "gpt2"
    catalog: Any = SimpleNamespace(list_saes=lambda: [MINE, OTHER, wide, foreign, board])
    assert comparable(catalog, MINE) == [OTHER]
    assert comparable(catalog, board) == []
