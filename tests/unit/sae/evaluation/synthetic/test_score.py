"""Tests of the scores: a perfect dictionary, a perfect SAE, a random one, and a dense recomputation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.synthetic.score import DEFINITIONS, Chance, OfSAE, Oracle, mcc, nearest, score
from sae.evaluation.synthetic.world import Recipe, World

RECIPE = Recipe(n_features=64, d_model=24, max_probability=0.2, min_probability=0.05, roots=6, branching=4, depth=1,
                rank=4, orthogonal_steps=20, orthogonal_lr=3e-3)


@pytest.fixture(scope="module")
def world() -> World:
    return World(RECIPE)


def test_a_perfect_dictionary_scores_one(world: World) -> None:
    found = score(Oracle(world, 64), world, world.samples(4_000, 1))
    assert set(found) == set(DEFINITIONS)
    for key in ("mcc", "f1", "precision", "recall", "uniqueness", "explained_variance", "shrinkage"):
        assert found[key] == pytest.approx(1.0, abs=1e-5), key
    assert found["dead"] == 0
    part = score(Oracle(world, 16), world, world.samples(4_000, 1))
    assert [part[key] for key in ("mcc", "f1", "uniqueness")] == pytest.approx([1, 1, 1], abs=1e-6)
    assert part["explained_variance"] < 0.9


def test_an_sae_that_holds_orthogonal_features_scores_one() -> None:
    """Without superposition the encoder can be perfect: this checks the way through a real artefact."""
    world = World(replace(RECIPE, n_features=20, d_model=24, magnitude_sd=0.0, roots=20))
    world.features_FD = torch.linalg.qr(torch.randn(24, 20, generator=torch.Generator().manual_seed(2)))[0].T
    config: dict[str, Any] = {"architecture": "batch_topk", "k": 3, "normalize": "none", "n_latents": 20}
    sae = Autoencoder({"W_enc": world.features_FD, "b_enc": torch.zeros(20), "W_dec": world.features_FD,
                       "b_dec": world.bias_D, "threshold": torch.tensor([0.5])}, config)
    found = score(OfSAE(sae), world, world.samples(2_000, 1))
    assert [found[key] for key in ("mcc", "f1", "explained_variance")] == pytest.approx([1, 1, 1], abs=1e-4)


def test_a_random_dictionary_scores_as_chance_predicts(world: World) -> None:
    n_latents, k = 400, 60
    chance = Chance(world, n_latents, k)
    found = score(chance, world, world.samples(20_000, 2), matching=False)
    # Of L draws among F features, F (1 − (1 − 1/F)^L) are distinct.
    assert found["uniqueness"] == pytest.approx(64 * (1 - (1 - 1 / 64) ** n_latents) / n_latents, rel=0.02)
    # A detector that fires with probability q, whatever is there, has precision p and recall q.
    truth = torch.cat([truth for truth, _ in world.samples(20_000, 2)])
    p = (truth > 0).double().mean(dim=0)[nearest(chance.W_dec_LD, world.features_FD)[1]]
    q = k / n_latents
    assert found["precision"] == pytest.approx(float(p.mean()), rel=0.03)
    assert found["recall"] == pytest.approx(q, rel=0.03)
    assert found["f1"] == pytest.approx(float((2 * p * q / (p + q)).mean()), rel=0.03)
    assert found["l0"] == pytest.approx(k, rel=0.01)
    # The matched |cosine| of a single random row with one feature is E|cos| = Γ(d/2) / (√π Γ((d+1)/2)).
    d = torch.tensor(24.0)
    expected = float(torch.exp(torch.lgamma(d / 2) - torch.lgamma((d + 1) / 2)) / torch.pi**0.5)
    one = torch.stack([nearest(row[None], world.features_FD[:1])[0][0, 0] for row in chance.W_dec_LD])
    assert float(one.mean()) == pytest.approx(expected, rel=0.1)
    assert mcc(nearest(chance.W_dec_LD[:20], world.features_FD[20:40])[0]) < 0.6


def test_scores_equal_a_dense_recomputation(world: World) -> None:
    from tests.toys import eighths

    generator = torch.Generator().manual_seed(5)
    W = torch.nn.functional.normalize(torch.randn(30, 24, generator=generator), dim=1)
    config: dict[str, Any] = {"architecture": "relu", "k": None, "normalize": "none", "n_latents": 30}
    sae = Autoencoder({"W_enc": W, "b_enc": eighths(generator, 30), "W_dec": W, "b_dec": world.bias_D}, config)
    samples = list(world.samples(1_500, 6))
    found = score(OfSAE(sae), world, samples)
    truth, x = (torch.cat(parts) for parts in zip(*samples, strict=True))
    acts = ((x - world.bias_D) @ W.T + sae.b_enc_L).relu().double()
    best = (W @ world.features_FD.T).abs().argmax(dim=1)
    f1s = []
    for latent in range(30):
        fires, there = acts[:, latent] > 0, truth[:, best[latent]] > 0
        hits = float((fires & there).sum())
        f1s.append(2 * hits / float(fires.sum() + there.sum()) if hits else 0.0)
    assert found["f1"] == pytest.approx(sum(f1s) / 30, rel=1e-5)
    x_hat = acts @ W.double() + world.bias_D
    ev = 1 - float((x - x_hat).square().sum() / (x.double() - x.double().mean(dim=0)).square().sum())
    assert found["explained_variance"] == pytest.approx(ev, rel=1e-4)
    assert found["shrinkage"] == pytest.approx(float((x_hat.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-5)
    assert found["l0"] == pytest.approx(float((acts > 0).sum()) / 1_500, rel=1e-3)


def test_more_latents_than_features_are_matched_from_the_other_side() -> None:
    cosine = torch.tensor([[1.0, 0.2], [0.9, 0.1], [0.3, 0.8]])
    assert mcc(cosine) == pytest.approx((1.0 + 0.8) / 2)
