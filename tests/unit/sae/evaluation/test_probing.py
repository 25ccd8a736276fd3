"""Probing finds what is planted, and agrees with independent computations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from sae.evaluation import probe_tasks
from sae.evaluation.probe_tasks import Examples, Task
from sae.evaluation.probing import DEFINITIONS, KS, Probing, best_latent, probe, rank_latents
from sae.evaluation.saebench import KINDS
from tests.toys import D, toy_sae


def silent(done: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def planted() -> tuple[Any, Examples]:
    """Make examples whose label is whether latent 11 is active, with some mistakes."""
    sae = toy_sae("batch_topk", n_latents=24, threshold=3.0)
    x_ND = 3 * torch.randn(600, D, generator=torch.Generator().manual_seed(1))
    active_N = sae.activation_of(x_ND, torch.tensor([11]))[:, 0] > 0
    y_N = (active_N.numpy() ^ (np.random.default_rng(0).random(600) < 0.05)).astype(np.float64)
    return sae, Examples(x_ND, [Task("planted", np.arange(400), np.arange(400, 600), y_N)])


def test_the_best_single_latent_has_the_lowest_loss_of_all(planted: Any) -> None:
    """Compare with a scikit-learn probe without a penalty on every latent's pre-activations."""
    from sklearn.linear_model import LogisticRegression  # takes a second, which collecting the tests need not wait for

    sae, examples = planted
    (task,) = examples.tasks
    x, y = examples.x_ND, task.y_N
    latent, train_loss, test_loss = best_latent(sae, x[:400], y[:400], x[400:], y[400:], silent)
    losses = []
    for i in range(24):
        z = sae.pre_activations(x)[:, i : i + 1].double().numpy()
        z /= z.std()
        model = LogisticRegression(C=1 / (400 * 1e-4), solver="newton-cholesky", max_iter=200).fit(z[:400], y[:400])
        p = model.predict_proba(z)[:, 1]
        loss = -np.log(np.where(y == 1, p, 1 - p))
        losses.append((loss[:400].mean(), loss[400:].mean()))
    assert latent == int(np.argmin([train for train, _ in losses])) == 11
    assert train_loss == pytest.approx(losses[latent][0], abs=2e-4)
    assert test_loss == pytest.approx(losses[latent][1], abs=2e-3)


def test_latents_are_ranked_by_their_difference_in_units_of_their_activation(planted: Any) -> None:
    sae, examples = planted
    y, x_ND = examples.tasks[0].y_N[:400], examples.x_ND[:400]
    codes = sae.codes(x_ND)
    dense = torch.zeros(400, 24)
    dense[codes.token_N, codes.latent_N] = codes.value_N
    scaled = dense / (dense.abs().sum(0) / ((dense != 0).sum(0) + 1e-6) + 1e-6)
    difference = (scaled[y == 1].mean(0) - scaled[y == 0].mean(0)).abs()
    ranked = rank_latents(sae, x_ND, y, 24)
    assert difference[ranked].numpy() == pytest.approx(np.sort(difference.numpy())[::-1], abs=1e-5)
    assert int(ranked[0]) == 11


def test_scores_of_a_task(planted: Any) -> None:
    sae, examples = planted
    row = probe(sae, examples, examples.tasks[0], (1, 2, 5), silent, 0)
    assert row["latent"] == row["sparse"]["1"]["latents"][0] == 11
    assert row["sparse"]["1"]["accuracy"] > 0.92  # 5% of the labels are wrong
    assert row["raw"]["accuracy"] < row["sparse"]["1"]["accuracy"]  # a threshold is not linear in x
    assert row["probe_loss"] < row["probe_loss_base"]
    assert (row["n_train"], row["n_test"]) == (400, 200)


def test_labels_by_chance_give_chance(planted: Any) -> None:
    sae, examples = planted
    y_N = np.random.default_rng(3).integers(0, 2, 600).astype(np.float64)
    row = probe(sae, examples, Task("chance", np.arange(400), np.arange(400, 600), y_N), KS, silent, 0)
    assert all(0.4 < row["sparse"][str(k)]["auc"] < 0.6 for k in KS)
    assert 0.66 < row["probe_loss"] < 0.75
    assert row["probe_loss_base"] == pytest.approx(np.log(2), abs=0.01)


def test_python_s_syntax_is_probed(subject_of: Any, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_tasks, "MIN_EXAMPLES", 6)
    subject = subject_of(tiny_sae("topk", k=6))
    seen: list[float] = []
    result = Probing(n_train=40, n_test=30, ks=(1, 2, 5, 16)).run(subject, lambda done, of: seen.append(done / of))
    assert {value.key for value in result.values} == set(DEFINITIONS)
    assert set(KINDS["probing"][1]) <= set(DEFINITIONS)
    json.dumps(result.detail, allow_nan=False)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(result.detail["tasks"]) == next(v.value for v in result.values if v.key == "tasks")
    assert "too few" in (Probing().refuse(subject_of(tiny_sae(), [0])) or "")
