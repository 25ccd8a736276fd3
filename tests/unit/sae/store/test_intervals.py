"""Intervals of shares: the textbook's values, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sae.store.intervals import share_interval


def test_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert share_interval(81 / 263, 263.0) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(15 / 148, 148.0) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert share_interval(1 / 29, 29.0) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_bounds_solve_the_score_equation() -> None:
    for bound in share_interval(0.9, 64.0):
        assert abs(0.9 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 64))


def test_coverage_is_about_95_percent() -> None:
    draws = np.random.default_rng(0).binomial(64, 0.9, 20_000) / 64
    low, high = share_interval(draws, np.full(20_000, 64.0))
    covered = (low <= 0.9) & (high >= 0.9)
    assert 0.93 < covered.mean() < 0.97
