"""Tests of spreads, paired comparisons and interpolation at equal L0."""

from __future__ import annotations

import math
import statistics

import pytest

from sae.reproduce import batchtopk
from sae.reproduce.results import Comparison, Results, Spread, interpolated
from tests.unit.sae.reproduce.rows import rows_of


def test_a_spread_is_students_interval() -> None:
    values = [1.0, 2.0, 4.0]
    found = Spread.of(values)
    half = 4.302653 * statistics.stdev(values) / math.sqrt(3)
    assert (found.mean, found.n) == (pytest.approx(7 / 3), 3)
    assert (found.low, found.high) == (pytest.approx(7 / 3 - half), pytest.approx(7 / 3 + half))
    alone = Spread.of([0.5])
    assert alone.text(".1f", "%") == "0.5%"
    assert Comparison("", alone).holds is None
    assert Comparison("", Spread.of([1.0, 1.1])).holds is True
    assert Comparison("", Spread.of([-1.0, -1.1])).holds is False
    assert Comparison("", Spread.of([-1.0, 1.1])).holds is None


def test_interpolation_is_linear_in_both_logarithms_and_stays_near_the_data() -> None:
    curve = [(64.0, 0.1), (8.0, 0.4), (32.0, 0.2)]  # y = c · x^-½ between 8 and 32
    assert interpolated(curve, 16.0) == pytest.approx(0.4 * 2**-0.5)
    assert interpolated(curve, 32.0) == pytest.approx(0.2)
    assert interpolated(curve, 70.0) == pytest.approx(0.1 * (70 / 64) ** -1.0)
    assert interpolated(curve, 7.0) == pytest.approx(0.4 * (7 / 8) ** -0.5)
    assert interpolated(curve, 90.0) is None
    assert interpolated(curve, 6.0) is None
    assert interpolated(curve[:1], 64.0) is None


def test_comparisons_are_paired_by_seed() -> None:
    """A difference that is the same in every seed has no spread, however much the seeds differ."""
    results = Results([*rows_of(batchtopk.PAPER, lambda cell, seed: (1 + seed) * (
        0.9 if cell.architecture == "batch_topk" else 1.0)), {"seed": 0, "kind": "topk", "error": "lr: failed"}])
    assert len(results.failed) == 1
    found = results.gain("batch_topk", "topk", "fvu", "L = 512", n_latents=512, k=16)
    assert found is not None
    assert found.difference.mean == pytest.approx(10)
    assert found.difference.sd == pytest.approx(0, abs=1e-9)
    assert results.gain("batch_topk", "topk", "fvu", "", n_latents=7, k=16) is None
    assert results.spread("topk", "fvu", n_latents=512, k=16) == Spread.of([1.0, 2.0, 3.0])


def test_another_l0_is_compared_by_interpolation() -> None:
    results = Results(rows_of(
        batchtopk.PAPER, lambda cell, seed: cell.k**-0.5, l0=lambda cell, seed: cell.k * (
            1.2 if cell.architecture == "jumprelu" else 1.0)))
    found = results.gain_at_equal_l0("batch_topk", "jumprelu", "fvu", "k = 16", 512, k=16)
    assert found is not None
    assert found.difference.mean == pytest.approx(100 * (1 - 1.2**-0.5))
