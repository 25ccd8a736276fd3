"""Tests of the figures of the scaling paper: the law's curves, frontiers, and the SAEs with details."""

from __future__ import annotations

import pytest

from sae.reproduce.results import Results
from sae.reproduce.topk_figures import figures
from sae.reproduce.topk_scaling import PAPER, law_of
from tests.unit.sae.reproduce.rows import SETUP, rows_of
from tests.unit.sae.reproduce.test_topk_scaling import law

LAMBDAS = (0.06, 0.12, 0.24)


def test_the_fitted_curves_go_through_the_points_and_all_kinds_are_drawn() -> None:
    results = Results(rows_of(PAPER, law))
    fitted = law_of(results, SETUP.sizes)
    assert fitted is not None
    scaling, predicted, nmse, _, refinement, recovery = figures(results, SETUP, fitted, LAMBDAS)
    assert [line.name for line in scaling.lines] == [
        "k = 8", "k = 16", "k = 32", "L(n, 8)", "L(n, 16)", "L(n, 32)"]
    for points, curve in zip(scaling.lines[:3], scaling.lines[3:], strict=True):
        assert curve.points[0][1].mean == pytest.approx(points.points[0][1].mean, rel=1e-3)
        assert curve.points[-1][1].mean == pytest.approx(points.points[-1][1].mean, rel=1e-3)
    assert all(x == pytest.approx(s.mean, rel=1e-3) for x, s in predicted.lines[0].points)
    assert {line.name: len(line.points) for line in nmse.lines} == {
        "TopK": 3, "Multi-TopK": 1, "JumpReLU": 3, "ReLU": 3, "gated": 3}
    assert [line.name for line in refinement.lines] == ["TopK", "Multi-TopK", "ReLU"]
    assert [x for x, _ in refinement.lines[0].points] == [5, 50, 95]
    assert [line.dashed for line in recovery.lines] == [False, True] * 3


def test_without_a_law_the_points_are_joined() -> None:
    scaling, *_ = figures(Results(rows_of(PAPER, law)), SETUP, None, LAMBDAS)
    assert len(scaling.lines) == 3
    assert all(line.joined for line in scaling.lines)
