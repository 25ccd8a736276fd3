"""The training loop: schedules, resuming bit for bit, folding, and features that are really found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import geometric_median
from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.normalization import Normalizer
from sae.errors import UserError
from sae.specs.registry import TrainSpec
from sae.training import loop as engine
from sae.training.loop import StoredActivations, Trained, artefact, learning_rate, train

CPU = torch.device("cpu")


class Stopped(Exception):
    pass


def mixtures(n_tokens: int, n_features: int, width: int, seed: int = 0, active: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return activations that are sparse sums of unit features, and the features [G, D]."""
    generator = torch.Generator().manual_seed(seed)
    features_GD = torch.randn(n_features, width, generator=generator)
    features_GD /= features_GD.norm(dim=1, keepdim=True)
    strength_NG = 1 + torch.rand(n_tokens, n_features, generator=generator)
    strength_NG *= torch.rand(n_tokens, n_features, generator=generator) < active
    return 4 * strength_NG @ features_GD + 0.5, features_GD


def spec_of(**values: Any) -> TrainSpec:
    return TrainSpec(**{
        "n_latents": 40, "k": 3, "tokens": 64 * 20, "batch_tokens": 64, "warmup_steps": 3, "k_aux": 8,
        "dead_after_tokens": 200, "normalize": "none", **values})


def source_of(x_ND: Tensor) -> StoredActivations:
    return StoredActivations(x_ND, 64, seed=2)


def config_of(spec: TrainSpec) -> dict[str, Any]:
    return {"architecture": spec.architecture, "normalize": spec.normalize, "k": spec.k}


def stop_at(step: int) -> Callable[[int], None]:
    def update(tokens: int) -> None:
        if tokens == step * 64:
            raise Stopped

    return update


@pytest.mark.parametrize(("architecture", "normalize"), [("batch_topk", "dataset"), ("topk", "layer_norm")])
@settings(max_examples=6, deadline=None)
@given(stops=st.lists(st.integers(1, 20), max_size=3, unique=True).map(sorted))
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, architecture: str, normalize: str, stops: list[int]
) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    spec = spec_of(architecture=architecture, normalize=normalize)
    whole = train(spec, source_of(x_ND), CPU)
    checkpoint = tmp_path_factory.mktemp("run") / "ckpt" / "train.pt"
    for step in stops:
        with pytest.raises(Stopped):
            train(spec, source_of(x_ND), CPU, checkpoint=checkpoint, update=stop_at(step))
    resumed = train(spec, source_of(x_ND), CPU, checkpoint=checkpoint)
    for name, tensor in whole.trainer.tensors().items():
        assert torch.equal(tensor, resumed.trainer.tensors()[name]), name
    assert resumed.trainer.sparsity.threshold == whole.trainer.sparsity.threshold
    assert resumed.normalizer == whole.normalizer
    assert torch.equal(resumed.trainer.silent_tokens_L, whole.trainer.silent_tokens_L)


def test_a_kill_loses_only_what_came_after_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the run, which gives it no chance to save: only what was saved along the way counts."""
    x_ND, _ = mixtures(500, 30, 16)
    spec, checkpoint = spec_of(), tmp_path / "train.pt"
    monkeypatch.setattr(engine, "_CHECKPOINT_S", 0.0)
    monkeypatch.setattr(engine, "_CHECKPOINT_SHARE", float("inf"))
    copies = []

    def update(tokens: int) -> None:
        copies.append(checkpoint.read_bytes() if checkpoint.exists() else b"")

    whole = train(spec, source_of(x_ND), CPU, checkpoint=checkpoint, update=update)
    assert copies[0] == b""
    for lost_after in (1, 9, 19):
        checkpoint.write_bytes(copies[lost_after])
        steps: list[int] = []
        resumed = train(spec, source_of(x_ND), CPU, checkpoint=checkpoint, update=steps.append)
        assert steps == [64 * step for step in range(lost_after + 1, 21)]
        assert all(torch.equal(t, whole.trainer.tensors()[n]) for n, t in resumed.trainer.tensors().items())


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    x_ND, _ = mixtures(200, 30, 16)
    first = train(spec_of(), source_of(x_ND), CPU, checkpoint=tmp_path / "c.pt")
    steps: list[int] = []
    second = train(spec_of(), source_of(x_ND), CPU, checkpoint=tmp_path / "c.pt", update=steps.append)
    assert steps == []
    assert all(torch.equal(t, second.trainer.tensors()[n]) for n, t in first.trainer.tensors().items())
    assert second.trainer.sparsity.threshold == first.trainer.sparsity.threshold


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_planted_features_are_found(architecture: str) -> None:
    x_ND, features_GD = mixtures(6000, 40, 32)
    spec = spec_of(architecture=architecture, n_latents=64, k=2, tokens=256 * 350, batch_tokens=256, lr=5e-3,
                   dead_after_tokens=256 * 40, k_aux=16)
    rows: list[dict[str, float]] = []
    trained = train(spec, StoredActivations(x_ND, 256), CPU, row=lambda **row: rows.append(row))
    cosine_LG = trained.trainer.tensors()["W_dec"] @ features_GD.T
    assert float(cosine_LG.max(dim=0).values.mean()) >= 0.9
    assert rows[-1]["fvu"] < 0.25
    assert rows[-1]["l0"] <= 2
    assert rows[-1]["tokens"] == spec.tokens


def test_theta_is_of_the_last_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(engine, "_LOG_S", 0.0)  # one row per step, with the smallest activation kept
    trained = train(spec_of(), source_of(x_ND), CPU, row=lambda **row: rows.append(row))
    assert trained.theta_batches == (18, 20)
    minima = [row["theta"] for row in rows]
    assert len(minima) == 20
    assert trained.trainer.sparsity.threshold == pytest.approx(sum(minima[18:]) / 2, rel=1e-9)


def test_curves_are_sums_over_all_steps_since_the_last_row() -> None:
    x_ND, _ = mixtures(500, 30, 16)
    rows: list[dict[str, Any]] = []
    train(spec_of(tokens=64 * 16), source_of(x_ND), CPU, row=lambda **row: rows.append(row))
    assert rows[-1]["step"] == 16
    assert sum(row["tokens"] for row in rows) >= rows[-1]["tokens"] == 64 * 16
    assert all(0 < row["l0"] <= 3 and row["fvu"] > 0 and 0 <= row["dead"] <= 1 for row in rows)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_the_dataset_scale_is_folded_into_the_artefact(architecture: str) -> None:
    """Check that the artefact's codes and reconstructions on raw activations equal training's divided by s."""
    x_ND, _ = mixtures(500, 30, 16)
    spec = spec_of(architecture=architecture, normalize="dataset", lr=0.01)
    trained = train(spec, source_of(x_ND), CPU)
    s = trained.normalizer.factor
    assert not 0.9 < s < 1.1
    folded = artefact(trained, config_of(spec))
    unfolded = Autoencoder(trained.trainer.tensors(), config_of(spec) | {"normalize": "none"})
    unfolded.sparsity.threshold = trained.trainer.sparsity.threshold
    raw, scaled = folded.codes(x_ND), unfolded.codes(x_ND * s)
    assert torch.equal(raw.l0_B(), scaled.l0_B())
    dense = torch.zeros(2, len(x_ND), 40)
    dense[0, raw.token_N, raw.latent_N] = raw.value_N
    dense[1, scaled.token_N, scaled.latent_N] = scaled.value_N / s
    torch.testing.assert_close(dense[0], dense[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        folded.reconstruct(x_ND), unfolded.reconstruct(x_ND * s) / s, rtol=1e-5, atol=1e-5 * float(x_ND.abs().max()))


def test_without_a_dataset_scale_the_artefact_is_what_was_trained() -> None:
    x_ND, _ = mixtures(300, 30, 16)
    trained = train(spec_of(), source_of(x_ND), CPU)
    sae = artefact(trained, config_of(spec_of()))
    assert all(torch.equal(tensor, sae.tensors()[name]) for name, tensor in trained.trainer.tensors().items())
    assert sae.sparsity.threshold == trained.trainer.sparsity.threshold
    sae.W_dec_LD += 1  # the artefact's weights are its own
    assert not torch.equal(sae.W_dec_LD, trained.trainer.tensors()["W_dec"])
    assert isinstance(trained, Trained)
    assert trained.normalizer == Normalizer("none")


# ---- small parts


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 100, 2.0, 10, 0.3) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[9:71] == [2.0] * 62
    assert rates[71:] == pytest.approx([2.0 * (100 - step) / 30 for step in range(71, 100)])
    assert learning_rate(0, 5, 1.0, 0, 0.0) == learning_rate(4, 5, 1.0, 0, 0.0) == 1.0
    assert learning_rate(0, 1, 1.0, 50, 1.0) > 0
    assert learning_rate(0, 100, 1.0, 50, 0.0) == 1 / 20  # a warm-up is a fifth of the run at the most


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 5))
def test_no_point_near_the_geometric_median_is_nearer_to_the_rows(seed: int, n: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(n, width, generator=generator, dtype=torch.float64)
    median_D = geometric_median(x_ND, iterations=300)
    best = (x_ND - median_D).norm(dim=1).sum()
    for size in (1.0, 0.1, 0.01):
        other_D = median_D + size * torch.randn(width, generator=generator, dtype=torch.float64)
        assert (x_ND - other_D).norm(dim=1).sum() > best - 1e-3 * n


def test_the_geometric_median_does_not_follow_outliers() -> None:
    x_ND = torch.randn(101, 4, generator=torch.Generator().manual_seed(0))
    x_ND[:20] += 1e4
    assert geometric_median(x_ND).norm() < 1.5
    assert x_ND.mean(dim=0).norm() > 1000
    assert torch.isfinite(geometric_median(torch.zeros(3, 2))).all()


def test_stored_activations_pass_over_everything_before_anything_comes_again() -> None:
    x_ND = torch.arange(20.0)[:, None]
    source = StoredActivations(x_ND, 5, seed=1)
    batches = [x_BD[:, 0].tolist() for x_BD in islice(source.batches(), 8)]
    assert sorted(chain(*batches[:4])) == sorted(chain(*batches[4:])) == x_ND[:, 0].tolist()
    assert batches[:4] != batches[4:]
    assert [x_BD[:, 0].tolist() for x_BD in islice(source.batches(3), 5)] == batches[3:]
    assert len(source.sample(7)) == 7


def test_a_loss_that_is_no_number_says_so_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    checkpoint = tmp_path / "train.pt"
    with pytest.raises(Stopped):
        train(spec_of(), source_of(x_ND), CPU, checkpoint=checkpoint, update=stop_at(5))
    good = checkpoint.read_bytes()
    with pytest.raises(UserError, match="no longer a number at step 5") as refused:
        train(spec_of(), source_of(x_ND * float("nan")), CPU, checkpoint=checkpoint)
    assert refused.value.field == "lr"
    assert checkpoint.read_bytes() == good
