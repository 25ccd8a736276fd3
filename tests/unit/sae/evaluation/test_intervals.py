"""Intervals against their formulas, and their coverage of a known mean."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sae.evaluation.intervals import jackknife, mean_of, student_quantile


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (3, 3.1824), (4, 2.7764), (10, 2.2281), (120, 1.9799)])
def test_student_s_quantile_is_the_table_s(degrees: int, quantile: float) -> None:
    assert student_quantile(degrees) == pytest.approx(quantile, rel=0.01)


def test_the_jackknife_of_a_mean_is_student_s_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = jackknife(lambda i: {"m": float(np.delete(values, [] if i is None else i).mean())}, 12)["m"]
    expected = mean_of("m", values.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert expected.high - expected.value == pytest.approx(  # type: ignore[operator]
        student_quantile(11) * values.std(ddof=1) / math.sqrt(12))


def test_nineteen_of_twenty_intervals_hold_a_ratio_of_sums() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        x = rng.gamma(3.0, size=25)
        y = 2 * x + rng.normal(size=25)

        def ratio(i: int | None, x: np.ndarray = x, y: np.ndarray = y) -> dict[str, float | None]:
            kept = np.arange(25) != (-1 if i is None else i)
            return {"r": float(y[kept].sum() / x[kept].sum())}

        found = jackknife(ratio, 25)["r"]
        hits += found.low <= 2 <= found.high  # type: ignore[operator]
    assert 0.91 <= hits / 300 <= 0.98


def test_an_interval_of_shares_ends_at_one() -> None:
    found = mean_of("m", [1.0, 1.0, 0.9], share=True)
    assert (found.high, found.n) == (1.0, 3)
    assert found.low == mean_of("m", [1.0, 1.0, 0.9]).low


def test_numbers_that_cannot_be_computed_have_no_interval() -> None:
    assert mean_of("m", []).value is None
    assert mean_of("m", [3.0]).low is None
    assert jackknife(lambda i: {"m": 1.0}, 1)["m"].low is None
    assert jackknife(lambda i: {"m": float("nan")}, 3)["m"].value is None
    assert jackknife(lambda i: {"m": None if i == 1 else 2.0}, 3)["m"].low is None
