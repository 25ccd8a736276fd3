"""Tests of the fit of L(n, k): planted coefficients, intervals, derivatives, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sae.evaluation import scaling_law
from sae.evaluation.scaling_law import NAMES, PAPER, fit

SIZES, KS = (512, 1024, 2048, 4096, 8192), (8, 16, 32, 64)
GRID = [(n, k) for n in SIZES for k in KS]


def law(n: float, k: float) -> float:
    """Return the paper's law, written out."""
    p, x, y = PAPER, math.log(k), math.log(n)
    return math.exp(p["alpha"] + p["beta_k"] * x + p["beta_n"] * y + p["gamma"] * x * y) + math.exp(
        p["zeta"] + p["eta"] * x)


def test_planted_coefficients_are_found() -> None:
    found = fit([n for n, _ in GRID], [k for _, k in GRID], [law(n, k) for n, k in GRID])
    assert found.coefficients == pytest.approx(list(PAPER.values()), abs=1e-5)
    assert found.residual < 1e-9
    assert found.predict(65_536, 128) == pytest.approx(law(65_536, 128), rel=1e-6)


def test_intervals_contain_the_truth_about_as_often_as_they_say() -> None:
    rng, hits, trials = np.random.default_rng(0), 0, 30
    for _ in range(trials):
        noisy = [law(n, k) * math.exp(0.001 * rng.normal()) for n, k in GRID * 2]
        intervals = fit([n for n, _ in GRID * 2], [k for _, k in GRID * 2], noisy).intervals()
        _, low, high = intervals["gamma"]
        assert low is not None
        assert high is not None
        hits += low <= PAPER["gamma"] <= high
    assert 25 <= hits <= trials  # 95% of 30 are 28.5, with a standard deviation of 1.2


def test_the_derivatives_are_those_of_the_law() -> None:
    p = np.array(list(PAPER.values()))
    log_n, log_k = np.log([512.0, 4096.0]), np.log([8.0, 64.0])
    exact = scaling_law._jacobian(p, log_n, log_k)
    for i in range(len(NAMES)):
        step = np.zeros(len(NAMES))
        step[i] = 1e-6
        slope = (scaling_law._log_law(p + step, log_n, log_k) - scaling_law._log_law(p - step, log_n, log_k)) / 2e-6
        assert exact[:, i] == pytest.approx(slope, abs=1e-7)


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 7"):
        fit([512, 1024, 2048] * 2, [8] * 3 + [16] * 3, [0.5] * 6)
    with pytest.raises(ValueError, match="3 sizes"):
        fit([512, 1024] * 4, [8, 16, 32, 64] * 2, [0.5] * 8)
    with pytest.raises(ValueError, match="above 0"):
        fit([n for n, _ in GRID], [k for _, k in GRID], [0.0] * len(GRID))
