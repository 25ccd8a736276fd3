"""Tests of the assignment with the largest total weight, against all permutations and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sae.evaluation.assignment import best_assignment


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 3), (4, 6), (5, 5)])
def test_no_permutation_is_better(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for _ in range(20):
        weights = rng.normal(size=shape).round(1)  # with ties
        found = best_assignment(weights)
        rows = np.arange(shape[0])
        best = max(weights[rows, list(columns)].sum() for columns in itertools.permutations(range(shape[1]), shape[0]))
        assert len(set(found)) == shape[0]
        assert weights[rows, found].sum() == pytest.approx(best)


def test_it_agrees_with_scipy_on_a_larger_problem() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    weights = np.random.default_rng(0).random((150, 220)) ** 3
    rows, columns = optimize.linear_sum_assignment(weights, maximize=True)
    found = best_assignment(weights)
    assert weights[np.arange(150), found].sum() == pytest.approx(weights[rows, columns].sum())


def test_it_refuses_what_it_cannot_assign() -> None:
    with pytest.raises(ValueError, match="3 rows cannot have different columns out of 2"):
        best_assignment(np.ones((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        best_assignment(np.array([[np.nan]]))
