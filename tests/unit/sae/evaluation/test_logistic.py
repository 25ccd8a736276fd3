"""Probes against gradient descent, scikit-learn and pair counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae.evaluation.logistic import (
    RIDGE,
    _folds,
    auc,
    fit_best_logistic,
    fit_logistic,
    fit_probes,
    weighted_f1,
)


def problem(n: int = 200, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * np.geomspace(0.1, 30, width) + 2
    chance = 1 / (1 + np.exp(-(x - x.mean(0)) @ rng.normal(size=width) / 10))
    return x, (rng.random(n) < chance).astype(np.float64)


def test_probes_of_single_latents_have_the_lowest_loss() -> None:
    """Compare every probe with L-BFGS on its own two numbers, for dense, sparse, separable and constant latents."""
    x, y = problem()
    z = np.column_stack([x, np.maximum(x[:, 0] - 2.1, 0), y * 3.0 + 1e-3 * x[:, 1], np.full(200, 7.0)])
    z_NL, y_N = torch.from_numpy(z).float(), torch.from_numpy(y).float()
    probes = fit_probes(z_NL, y_N)
    for latent in range(z.shape[1]):
        u = torch.from_numpy((z[:, latent] - z[:, latent].mean()) / (z[:, latent].std() or 1.0))
        w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([w], max_iter=500, tolerance_change=1e-12, line_search_fn="strong_wolfe")

        def loss(w: torch.Tensor = w, u: torch.Tensor = u) -> torch.Tensor:
            logit = u * w[0] + w[1]
            penalty = RIDGE / 2 * w[0].square()
            return (torch.nn.functional.softplus(logit) - torch.from_numpy(y) * logit).mean() + penalty

        def closure(w: torch.Tensor = w, optimizer: torch.optim.LBFGS = optimizer, loss: object = loss) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss()  # type: ignore[operator]
            value.backward()
            return value  # type: ignore[no-any-return]

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        expected = float(loss().detach() - RIDGE / 2 * w[0].detach().square())
        assert float(probes.loss_L(z_NL, y_N)[latent]) == pytest.approx(expected, abs=2e-4), latent


@pytest.mark.parametrize("inverse_penalty", [1e-4, 0.1, 100.0])
def test_a_probe_is_scikit_learn_s(inverse_penalty: float) -> None:
    from sklearn.linear_model import LogisticRegression  # takes a second, which collecting the tests need not wait for

    x, y = problem()
    ours = fit_logistic(x, y, inverse_penalty)
    theirs = LogisticRegression(C=inverse_penalty, solver="newton-cholesky", max_iter=500, tol=1e-8).fit(x, y)
    assert ours.w_F == pytest.approx(theirs.coef_[0], rel=1e-3, abs=1e-5)
    assert ours.b == pytest.approx(float(theirs.intercept_[0]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("n", "width"), [(200, 5), (300, 40), (60, 4)])
def test_the_penalty_is_chosen_by_the_auc_on_the_last_fifth(n: int, width: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    x, y = problem(n, width)
    ours = fit_best_logistic(x, y)
    scores = []
    for c in np.logspace(5, -5, 10):
        folds = _folds(y, 0)
        models = [LogisticRegression(C=c, solver="newton-cholesky", max_iter=500).fit(x[a], y[a]) for a, _ in folds]
        scores.append(np.mean([roc_auc_score(y[b], m.decision_function(x[b]))
                               for m, (_, b) in zip(models, folds, strict=True)]))
    assert scores[int(np.argmin(np.abs(np.logspace(5, -5, 10) - ours.inverse_penalty)))] == pytest.approx(
        max(scores), abs=5e-3)
    if n >= 128:
        (fitted, checked), = _folds(y, 0)
        assert checked.tolist() == list(range(n - n // 5, n))
        assert len(fitted) + len(checked) == n


def test_more_inputs_than_examples_change_nothing_but_the_cost() -> None:
    x, y = problem(40, 90)
    reduced = fit_best_logistic(x, y)
    direct = fit_logistic(x, y, reduced.inverse_penalty)
    assert reduced.logits(x) == pytest.approx(direct.logits(x), rel=1e-3, abs=1e-3)


def test_auc_and_f1_are_scikit_learn_s() -> None:
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(0)
    score, y = rng.integers(0, 6, 80).astype(np.float64), rng.integers(0, 2, 80).astype(np.float64)
    assert auc(score, y) == pytest.approx(roc_auc_score(y, score))
    assert weighted_f1(score > 2, y) == pytest.approx(f1_score(y, score > 2, average="weighted"))
    assert np.isnan(auc(score, np.ones(80)))
