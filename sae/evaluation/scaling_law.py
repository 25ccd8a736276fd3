"""The joint scaling law of the number of latents n and the latents per token k (Gao et al. 2024, section 3.1.3).

    L(n, k) = exp(α + β_k ln k + β_n ln n + γ ln k ln n) + exp(ζ + η ln k)

The first term falls with n; the second is what no number of latents removes.  The fit minimises the squared error of
ln L by Levenberg and Marquardt's method from several starts.  Intervals come from the linearised fit.

Shapes: N measured SAEs, 6 coefficients in the order of `NAMES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae.evaluation.intervals import student_quantile

NAMES = ("alpha", "beta_k", "beta_n", "gamma", "zeta", "eta")
PAPER = dict(zip(NAMES, (-0.50, 0.26, -0.017, -0.042, -1.32, -0.085), strict=True))  # GPT-4
_SHARES = (0.05, 0.2, 0.5, 0.8, 0.95)  # of the second term at the start of the search
_STEPS = 2_000


@dataclass(frozen=True)
class Law:
    """A fitted law."""

    coefficients: np.ndarray  # [6]
    covariance: np.ndarray | None  # [6, 6]; None if the data do not determine all coefficients
    residual: float  # root mean square of ln L predicted − ln L measured
    n_points: int

    def predict(self, n: float, k: float) -> float:
        """Return L(n, k)."""
        return float(np.exp(_log_law(self.coefficients, *_logs([n], [k]))[0]))

    def intervals(self) -> dict[str, tuple[float, float | None, float | None]]:
        """Return each coefficient with its 95% interval, whose ends are None where the data do not give one."""
        out: dict[str, tuple[float, float | None, float | None]] = {}
        for i, name in enumerate(NAMES):
            value = float(self.coefficients[i])
            half = None if self.covariance is None else (
                student_quantile(self.n_points - len(NAMES)) * math.sqrt(self.covariance[i, i]))
            out[name] = (value, None, None) if half is None else (value, value - half, value + half)
        return out


def fit(ns: Sequence[float], ks: Sequence[float], losses: Sequence[float]) -> Law:
    """Fit the law to measured losses, which may repeat an (n, k) with several seeds.

    Raises ValueError for fewer than 7 points, 3 sizes or 2 values of k, and for losses that are not positive.
    """
    if len(losses) <= len(NAMES) or len(set(ns)) < 3 or len(set(ks)) < 2:
        raise ValueError("the scaling law needs at least 7 SAEs, of 3 sizes and 2 values of k")
    if not all(loss > 0 and math.isfinite(loss) for loss in losses):
        raise ValueError("the scaling law needs losses above 0")
    log_n_N, log_k_N = _logs(ns, ks)
    target_N = np.log(np.asarray(losses, dtype=np.float64))
    design = np.stack([np.ones_like(log_k_N), log_k_N, log_n_N, log_k_N * log_n_N], axis=1)
    plain = np.linalg.lstsq(design, target_N, rcond=None)[0]
    floor = np.linalg.lstsq(design[:, :2], target_N, rcond=None)[0]
    starts = [np.concatenate([plain + np.array([math.log(1 - share), 0, 0, 0]),
                              floor + np.array([math.log(share), 0])]) for share in _SHARES]
    error, best = min((_search(start, log_n_N, log_k_N, target_N) for start in starts), key=lambda found: found[0])
    return Law(best, _covariance(best, log_n_N, log_k_N, error), math.sqrt(error / len(target_N)), len(target_N))


def _logs(ns: Sequence[float], ks: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.log(np.asarray(ns, dtype=np.float64)), np.log(np.asarray(ks, dtype=np.float64))


def _terms(p: np.ndarray, log_n_N: np.ndarray, log_k_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of both terms, [N] each."""
    return p[0] + p[1] * log_k_N + p[2] * log_n_N + p[3] * log_k_N * log_n_N, p[4] + p[5] * log_k_N


def _log_law(p: np.ndarray, log_n_N: np.ndarray, log_k_N: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(*_terms(p, log_n_N, log_k_N)))


def _jacobian(p: np.ndarray, log_n_N: np.ndarray, log_k_N: np.ndarray) -> np.ndarray:
    """Return ∂ ln L / ∂ coefficient, [N, 6]."""
    first, second = _terms(p, log_n_N, log_k_N)
    total = np.logaddexp(first, second)
    a, b = np.exp(first - total), np.exp(second - total)
    return np.stack([a, a * log_k_N, a * log_n_N, a * log_k_N * log_n_N, b, b * log_k_N], axis=1)


def _search(
    start: np.ndarray, log_n_N: np.ndarray, log_k_N: np.ndarray, target_N: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the least squared error that is reached from a start, with its coefficients."""
    p, damping = start, 1e-2
    rest_N = _log_law(p, log_n_N, log_k_N) - target_N
    error = float(rest_N @ rest_N)
    for _ in range(_STEPS):
        jacobian = _jacobian(p, log_n_N, log_k_N)
        square, slope = jacobian.T @ jacobian, jacobian.T @ rest_N
        step = np.linalg.solve(square + damping * (np.diag(np.diag(square)) + 1e-12 * np.eye(len(p))), -slope)
        tried_N = _log_law(p + step, log_n_N, log_k_N) - target_N
        tried = float(tried_N @ tried_N)
        if tried < error:
            done = error - tried < 1e-12 * error
            p, rest_N, error, damping = p + step, tried_N, tried, max(damping / 3, 1e-14)
            if done:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return error, p


def _covariance(p: np.ndarray, log_n_N: np.ndarray, log_k_N: np.ndarray, error: float) -> np.ndarray | None:
    jacobian = _jacobian(p, log_n_N, log_k_N)
    square = jacobian.T @ jacobian
    scale = np.sqrt(np.diag(square))
    if not (scale > 0).all() or np.linalg.cond(square / np.outer(scale, scale)) > 1e12:
        return None
    return np.asarray(np.linalg.inv(square) * error / (len(log_n_N) - len(p)))
