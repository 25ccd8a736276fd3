"""Logistic regression by Newton's method: one-dimensional probes of many latents at once, and probes of few inputs.

Shapes: N examples, L latents, F inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
RIDGE = 1e-4  # penalty ½·RIDGE·w² of a one-dimensional probe, which keeps w finite where classes separate
_STEPS, _HALVINGS = 30, 6
_NOISE = 1e-6  # of a loss in float32
# Inverse penalties that are tried, the weakest penalty first (as sae-probes does).
INVERSE_PENALTIES = np.logspace(5, -5, 10)


@dataclass(frozen=True)
class Probes:
    """Probes σ(w·z + b), one a latent: [L] each, float32."""

    w_L: Tensor
    b_L: Tensor

    def loss_L(self, z_NL: Tensor, y_N: Tensor) -> Tensor:
        """Return the mean cross-entropy of each probe, in nats."""
        return _loss_L(z_NL * self.w_L + self.b_L, y_N)


def _loss_L(logit_NL: Tensor, y_N: Tensor) -> Tensor:
    loss_L: Tensor = torch.nn.functional.softplus(logit_NL).mean(dim=0) - y_N @ logit_NL / len(y_N)
    return loss_L


def fit_probes(z_NL: Tensor, y_N: Tensor, steps: int = _STEPS) -> Probes:
    """Fit a probe for every column of `z` by Newton's method, with the step halved while the loss would rise.

    Columns are standardised for the fit.  `y` holds 0 and 1.  Source: Gao et al. 2024, section 4.2.
    """
    mean_L, std_L = z_NL.mean(dim=0), z_NL.std(dim=0, correction=0)
    std_L = torch.where(std_L > 1e-12, std_L, 1.0)
    u_NL = (z_NL - mean_L).div_(std_L)
    square_NL = u_NL.square()
    base = y_N.mean().clamp(1e-6, 1 - 1e-6)
    w_L, b_L = torch.zeros_like(mean_L), torch.full_like(mean_L, float(torch.logit(base)))
    before_L = _loss_L(u_NL * w_L + b_L, y_N)
    uy_L, n = y_N @ u_NL / len(y_N), len(y_N)
    for _ in range(steps):
        p_NL = torch.addcmul(b_L, u_NL, w_L).sigmoid_()
        gw_L = torch.linalg.vecdot(p_NL, u_NL, dim=0) / n - uy_L + RIDGE * w_L
        gb_L = p_NL.mean(dim=0) - y_N.mean()
        weight_NL = torch.addcmul(p_NL, p_NL, p_NL, value=-1)
        hww_L = torch.linalg.vecdot(weight_NL, square_NL, dim=0) / n + RIDGE
        hwb_L, hbb_L = torch.linalg.vecdot(weight_NL, u_NL, dim=0) / n, weight_NL.mean(dim=0) + 1e-9
        det_L = (hww_L * hbb_L - hwb_L.square()).clamp(min=1e-20)
        dw_L, db_L = (hbb_L * gw_L - hwb_L * gb_L) / det_L, (hww_L * gb_L - hwb_L * gw_L) / det_L
        step_L = torch.ones_like(w_L)
        for _ in range(_HALVINGS):
            loss_L = _loss_L(torch.addcmul(b_L - step_L * db_L, u_NL, w_L - step_L * dw_L), y_N)
            loss_L = loss_L + RIDGE / 2 * (w_L - step_L * dw_L).square()
            rises_L = loss_L > before_L + _NOISE
            if not bool(rises_L.any()):
                break
            step_L = torch.where(rises_L, step_L / 2, step_L)
        step_L = torch.where(rises_L, 0.0, step_L)
        w_L, b_L, loss_L = w_L - step_L * dw_L, b_L - step_L * db_L, torch.where(rises_L, before_L, loss_L)
        if float((before_L - loss_L).abs().max()) < _NOISE:
            break
        before_L = loss_L
    return Probes(w_L / std_L, b_L - w_L * mean_L / std_L)


@dataclass(frozen=True)
class Logistic:
    """A probe of several inputs."""

    w_F: Array
    b: float
    inverse_penalty: float

    def logits(self, x_NF: Array) -> Array:
        return x_NF @ self.w_F + self.b


def fit_logistic(x_NF: Array, y_N: Array, inverse_penalty: float, start: Logistic | None = None) -> Logistic:
    """Minimise ½‖w‖² + C·Σ loss, with C the inverse penalty; the bias is free (as in scikit-learn)."""
    one_NG = np.column_stack([x_NF, np.ones(len(x_NF))])
    ridge_G = np.append(np.ones(x_NF.shape[1]), 0.0) / inverse_penalty
    w_G = np.zeros(one_NG.shape[1]) if start is None else np.append(start.w_F, start.b)

    def objective(w_G: Array) -> float:
        logit_N = one_NG @ w_G
        return float((np.logaddexp(0, logit_N) - y_N * logit_N).sum() + (ridge_G * w_G**2).sum() / 2)

    value = objective(w_G)
    for _ in range(100):
        p_N = _sigmoid(one_NG @ w_G)
        gradient_G = one_NG.T @ (p_N - y_N) + ridge_G * w_G
        hessian_GG = (one_NG * (p_N * (1 - p_N))[:, None]).T @ one_NG + np.diag(ridge_G)
        hessian_GG[-1, -1] += 1e-9
        step_G = np.linalg.solve(hessian_GG, gradient_G)
        size = 1.0
        while (found := objective(w_G - size * step_G)) > value and size > 1e-6:
            size /= 2
        if found > value:
            break
        w_G, done = w_G - size * step_G, value - found < 1e-7 * abs(value) + 1e-9
        value = found
        if done:
            break
    return Logistic(w_G[:-1], float(w_G[-1]), inverse_penalty)


def fit_best_logistic(x_NF: Array, y_N: Array, seed: int = 0) -> Logistic:
    """Fit a probe whose penalty is chosen by the AUC on a part of the examples, and fit again on all of them.

    That part is the last fifth, at most 100, if there are at least 128 examples; else six stratified folds.  The
    examples should be in random order.  The largest C wins a tie.
    """
    x_NR, basis_FR = _reduced(x_NF)
    scores = np.zeros(len(INVERSE_PENALTIES))
    for fitted_on, checked_on in _folds(y_N, seed):
        model: Logistic | None = None
        for i in reversed(range(len(INVERSE_PENALTIES))):  # from the strongest penalty on, each from the one before
            model = fit_logistic(x_NR[fitted_on], y_N[fitted_on], float(INVERSE_PENALTIES[i]), model)
            scores[i] += auc(model.logits(x_NR[checked_on]), y_N[checked_on])
    model = None
    for inverse_penalty in INVERSE_PENALTIES[int(scores.argmax()):][::-1]:
        model = fit_logistic(x_NR, y_N, float(inverse_penalty), model)
    assert model is not None
    return Logistic(basis_FR @ model.w_F, model.b, model.inverse_penalty)


def _reduced(x_NF: Array) -> tuple[Array, Array]:
    """Return the examples in an orthonormal basis of the space that they span.

    The penalised solution is in that space, so nothing is lost, and no system is larger than the examples.
    """
    if x_NF.shape[1] <= len(x_NF):
        return x_NF, np.eye(x_NF.shape[1])
    basis_FR, _ = np.linalg.qr(x_NF.T)
    return x_NF @ basis_FR, basis_FR


def _folds(y_N: Array, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (fitted on, checked on) of each fold, with both classes in either."""
    n = len(y_N)
    if n >= 128:
        cut = n - min(n // 5, 100)
        parts = [np.arange(cut, n)]
    else:
        fold_N = np.zeros(n, dtype=np.int64)
        rng = np.random.default_rng(seed)
        for label in (0, 1):
            rows = rng.permutation(np.flatnonzero(y_N == label))
            fold_N[rows] = np.arange(len(rows)) % 6
        parts = [np.flatnonzero(fold_N == fold) for fold in range(6)]
    folds = [(np.setdiff1d(np.arange(n), part), part) for part in parts]
    return [(a, b) for a, b in folds if all(len(np.unique(y_N[rows])) == 2 for rows in (a, b))]


def auc(score_N: Array, y_N: Array) -> float:
    """Return the area under the ROC curve; equal scores count one half.  NaN unless both classes are there."""
    positive, negative = np.sort(score_N[y_N == 1]), np.sort(score_N[y_N == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    below, up_to = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float((below + up_to).sum() / 2 / len(positive) / len(negative))


def weighted_f1(predicted_N: NDArray[np.bool_], y_N: Array) -> float:
    """Return the mean of both classes' F1, weighted by their examples."""
    total = 0.0
    for label in (True, False):
        truth_N = (y_N == 1) == label
        hit = int((truth_N & (predicted_N == label)).sum())
        total += truth_N.mean() * 2 * hit / max(int(truth_N.sum() + (predicted_N == label).sum()), 1)
    return float(total)


def _sigmoid(x_N: Array) -> Array:
    return 0.5 * (1 + np.tanh(x_N / 2))
