"""Tests of the figures of a measure's detail."""

from __future__ import annotations

from typing import Any

import pytest

from app.pages.explore.quality_figures import figures

CURVES = {"topk": [{"k": 1, "fvu": 0.5}, {"k": 4, "fvu": 0.25}, {"k": 4096, "fvu": 0.125}],
          "threshold": [{"k": 1, "fvu": 0.6}, {"k": 4, "fvu": 0.2}]}


def test_progressive_recovery_has_a_line_for_each_rule() -> None:
    (drawn,) = figures({"curves": CURVES, "own_k": 4})
    assert drawn.count("<polyline") == 2
    assert "L0 = 4" in drawn
    assert "one threshold" in drawn
    assert "4,096" not in drawn, "far beyond its own L0"


def test_refinement_is_a_distribution() -> None:
    (drawn,) = figures({"refinement": {"shares": [0.1, 0.5, 0.9], "quantiles": [-0.2, 0.0, 0.3]}})
    assert "Refined minus own activations" in drawn
    assert drawn.count("<polyline") == 1
    assert figures({"refinement": {"shares": [0.1], "quantiles": []}}) == []


def test_the_l0_histogram_marks_bos() -> None:
    rows = [{"l0": 8, "n": 0, "n_bos": 50}, {"l0": 30, "n": 3, "n_bos": 0}, {"l0": 31, "n": 1, "n_bos": 0}]
    (drawn,) = figures({"l0_histogram": [*rows, {"l0": 7, "n": 4, "n_bos": 0}]})
    assert "BOS: 8 latents" in drawn
    assert "38%" in drawn
    assert drawn.count('class="c-bar"') == 3


def test_seeds_have_a_histogram_of_cosines() -> None:
    (drawn,) = figures({"histogram_of_largest_cosines": [1, 0, 3, 5]})
    assert "another seed" in drawn
    assert drawn.count('class="c-bar"') == 3


@pytest.mark.parametrize("detail", [
    {"curves": 3}, {"curves": {"topk": [{"k": 1}]}}, {"refinement": [1]}, {"l0_histogram": "abc"},
    {"histogram_of_largest_cosines": 3}, {"l0_histogram": [{"l0": "x", "n": 1}]}])
def test_a_figure_that_is_not_understood_is_left_out(detail: dict[str, Any]) -> None:
    assert figures(detail) == []
