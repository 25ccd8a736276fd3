"""Measures against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sae.explain import measures

T, F = True, False
TRUTH = np.array([T, T, T, F, F, F, F, F])


def test_a_perfect_prediction_scores_one_and_a_constant_one_a_half() -> None:
    assert measures.balanced_accuracy(TRUTH, TRUTH) == 1.0
    assert measures.f1(TRUTH, TRUTH) == 1.0
    for constant in (np.ones(8, dtype=bool), np.zeros(8, dtype=bool)):
        assert measures.balanced_accuracy(TRUTH, constant) == 0.5
    assert measures.f1(TRUTH, np.zeros(8, dtype=bool)) == 0.0


def test_the_values_are_those_of_a_calculation_by_hand() -> None:
    predicted = np.array([T, T, F, T, F, F, F, F])  # 2 of 3 positives, 4 of 5 negatives
    assert measures.balanced_accuracy(TRUTH, predicted) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert measures.precision_recall(TRUTH, predicted) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert measures.f1(TRUTH, predicted) == pytest.approx(2 / 3)
    score = np.array([0.9, 0.5, 0.2, 0.5, 0.1, 0.1, 0.3, 0.0])
    # 15 pairs: 0.9 wins 5, 0.5 wins 4 and ties 1, 0.2 wins 3 of 5
    assert measures.auc(TRUTH, score) == pytest.approx((5 + 4.5 + 3) / 15)


def test_what_cannot_be_read_counts_as_wrong() -> None:
    assert measures.right_or_wrong([T, F, T, F], [None, None, T, F]).tolist() == [F, T, T, F]


def test_one_sort_of_examples_has_no_balanced_accuracy() -> None:
    only = np.array([T, T])
    assert math.isnan(measures.balanced_accuracy(only, only))
    assert math.isnan(measures.auc(only, np.array([1.0, 2.0])))


def test_correlation_of_constant_predictions_is_zero() -> None:
    assert measures.pearson(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0])) == 0.0
    assert measures.pearson(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(1.0)


def test_an_interval_contains_the_value_and_narrows_with_examples() -> None:
    def width(n: int) -> float:
        truth = np.arange(n) % 2 == 0
        predicted = np.where(np.arange(n) % 10 == 0, ~truth, truth)
        low, high = measures.balanced_interval(truth, predicted)
        assert low is not None
        assert high is not None
        assert low <= measures.balanced_accuracy(truth, predicted) <= high
        return high - low

    assert width(400) < width(40)
    assert measures.balanced_interval(np.array([True]), np.array([True])) == (None, None)


def test_intervals_are_those_of_the_distribution() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(200)
    low, high = measures.mean_interval(values)
    assert low is not None
    assert high is not None
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 200**0.5, rel=0.1)
    truth = np.arange(30) % 3 == 0
    low, high = measures.auc_interval(truth, truth + 0.0)
    assert (low, high) == (1.0, 1.0)
    low, high = measures.auc_interval(truth, rng.standard_normal(30))
    assert low is not None
    assert high is not None
    assert 0 < low < high < 1


def test_the_interval_of_a_correlation_draws_whole_texts() -> None:
    rows = [(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])), (np.array([3.0, 4.0]), np.array([7.0, 9.0]))]
    low, high = measures.pearson_interval(rows)
    assert (low, high) == (pytest.approx(1.0), pytest.approx(1.0))
    silent = [(np.zeros(3), np.ones(3))]
    assert measures.pearson_interval(silent) == (0.0, 0.0)
