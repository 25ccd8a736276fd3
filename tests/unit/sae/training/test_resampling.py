"""Dead latents are pointed at badly explained inputs, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.specs.training import TrainSpec
from sae.training.resampling import resample, resample_if_due, resampling_due
from sae.training.trainer import SAETrainer

B, L, D = 32, 16, 6
DEAD = [3, 7, 8]


def trainer_of(architecture: str = "relu", **changes: Any) -> SAETrainer:
    spec = TrainSpec(**{"architecture": architecture, "n_latents": L, "tokens": B * 40, "batch_tokens": B, "seed": 1,
                        "dead_after_tokens": 100, "resample_every": 5, **changes})
    return SAETrainer(spec, DataStatistics(torch.full((D,), 0.5), 2.0, 1.0), torch.device("cpu"))


def batch(seed: int) -> Tensor:
    return 2 * torch.randn(B, D, generator=torch.Generator().manual_seed(seed))


def test_it_is_due_every_so_many_steps_in_the_first_half() -> None:
    trainer = trainer_of()
    due = []
    for step in range(1, 41):
        trainer.steps_done = step
        if resampling_due(trainer):
            due.append(step)
    assert due == [5, 10, 15, 20]
    assert not resampling_due(trainer_of(resample_every=0))


@pytest.mark.parametrize("architecture", ["relu", "gated"])
def test_dead_latents_are_pointed_at_badly_explained_inputs(architecture: str) -> None:
    trainer = trainer_of(architecture)
    for step in range(3):
        trainer.step(batch(step), lr=0.05)
    trainer.silent_tokens_L.zero_()
    trainer.silent_tokens_L[DEAD] = 101
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    y_BD, error_BD = batch(9), torch.zeros(B, D)
    error_BD[[4, 20]] = torch.tensor([1.0, -2.0])[:, None]  # only these two are badly explained
    resample(trainer, y_BD, error_BD)

    alive = [latent for latent in range(L) if latent not in DEAD]
    centred_BD = y_BD - before["b_dec"]
    directions_2D = (centred_BD / centred_BD.norm(dim=1, keepdim=True))[[4, 20]]
    after = trainer.tensors()
    for latent in DEAD:
        assert (after["W_dec"][latent] - directions_2D).norm(dim=1).min() < 1e-6
        torch.testing.assert_close(after["W_enc"][latent],
                                   0.2 * before["W_enc"][alive].norm(dim=1).mean() * after["W_dec"][latent])
    for name, tensor in after.items():
        if name == "b_dec":
            assert torch.equal(tensor, before[name])
            continue
        assert torch.equal(tensor[alive], before[name][alive]), name
        if name not in ("W_enc", "W_dec"):
            assert not tensor[DEAD].any(), name
        moments = trainer.optimizer.adam.state[trainer.named_parameters()[name]]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not moments[moment][DEAD].any()
            assert moments[moment][alive].any()
    assert trainer.n_dead == 0


def test_the_chance_is_the_square_of_the_loss() -> None:
    """Check that of two inputs with errors 1 and √2, the second is drawn four times as often as the first."""
    trainer = trainer_of(n_latents=5001)
    trainer.step(batch(1), lr=1e-9)
    trainer.silent_tokens_L[:5000] = 101
    y_BD, error_BD = batch(0), torch.zeros(B, D)
    error_BD[0, 0], error_BD[1, 0] = 1.0, 2**0.5
    resample(trainer, y_BD, error_BD)
    centred_2D = y_BD[:2] - trainer.b_dec_D.detach()
    cosine_M2 = trainer.W_dec_LD.detach()[:5000] @ centred_2D.T / centred_2D.norm(dim=1)
    counts = (cosine_M2 > 1 - 1e-5).sum(dim=0)
    assert int(counts.sum()) == 5000
    assert float(counts[1] / counts[0]) == pytest.approx(4, rel=0.1)


def test_a_resumed_run_resamples_the_same() -> None:
    def run(trainer: SAETrainer, start: int, stop: int) -> None:
        for step in range(start, stop):
            result = trainer.step(batch(step), lr=0.02)
            resample_if_due(trainer, batch(step), result.error_BD)

    whole = trainer_of(dead_after_tokens=1)
    run(whole, 0, 12)
    first = trainer_of(dead_after_tokens=1)
    run(first, 0, 8)
    second = SAETrainer.resumed(first.spec, first.state(), torch.device("cpu"))
    run(second, 8, 12)
    assert all(torch.equal(t, second.tensors()[name]) for name, t in whole.tensors().items())


def test_nothing_dead_or_nothing_unexplained_changes_nothing() -> None:
    trainer = trainer_of()
    before = trainer.W_dec_LD.detach().clone()
    resample(trainer, batch(0), torch.ones(B, D))
    trainer.silent_tokens_L[DEAD] = 101
    resample(trainer, batch(0), torch.zeros(B, D))
    assert torch.equal(trainer.W_dec_LD, before)
