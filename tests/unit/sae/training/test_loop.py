"""The training loop: schedules, resuming bit for bit, folding, sweeps and transcoders."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.normalization import Normalizer
from sae.errors import UserError
from sae.specs.registry import TrainSpec
from sae.training import loop as engine
from sae.training.loop import StoredActivations, Trained, artefact, learning_rate, train, train_all
from tests.unit.sae.planted import mixtures
from tests.unit.sae.training.small_runs import (
    CPU,
    GRID,
    Stopped,
    config_of,
    rows_of,
    source_of,
    spec_of,
    stop_at,
)


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


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path: Path) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    spec, checkpoint = spec_of(), tmp_path / "train.pt"
    whole = train(spec, source_of(x_ND), CPU)
    for step in (5, 9):
        with pytest.raises(Stopped):
            train(spec, source_of(x_ND), CPU, checkpoint=checkpoint, update=stop_at(step))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    steps: list[int] = []
    resumed = train(spec, source_of(x_ND), CPU, checkpoint=checkpoint, update=steps.append)
    assert 64 * 5 <= steps[0] <= 64 * 6
    assert all(torch.equal(tensor, resumed.trainer.tensors()[name]) for name, tensor in whole.trainer.tensors().items())


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
def test_planted_features_are_found(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LOG_S", 0.0)  # the last row is the last step's, however fast the machine is
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


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 100, 2.0, 10, 0.3) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[9:71] == [2.0] * 62
    assert rates[71:] == pytest.approx([2.0 * (100 - step) / 30 for step in range(71, 100)])
    assert learning_rate(0, 5, 1.0, 0, 0.0) == learning_rate(4, 5, 1.0, 0, 0.0) == 1.0
    assert learning_rate(0, 1, 1.0, 50, 1.0) > 0
    assert learning_rate(0, 100, 1.0, 50, 0.0) == 1 / 20  # a warm-up is a fifth of the run at the most


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


# ---- many SAEs on one stream


def weights(trained: Trained | UserError) -> dict[str, Tensor]:
    assert isinstance(trained, Trained)
    return trained.trainer.tensors()


def same(one: Trained | UserError, other: Trained | UserError) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_an_sae_of_a_sweep_is_the_one_that_it_would_be_alone() -> None:
    x_ND, _ = mixtures(500, 30, 16)
    members = GRID.members()
    together = train_all(members, source_of(x_ND), CPU)
    assert len(together) == 8
    for spec, outcome in zip(members, together, strict=True):
        alone = train(spec, source_of(x_ND), CPU)
        assert same(alone, outcome), spec
        assert isinstance(outcome, Trained)
        assert alone.trainer.sparsity.threshold == outcome.trainer.sparsity.threshold


@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True).map(sorted))
def test_a_sweep_goes_on_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, stops: list[int]) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    whole = train_all(GRID.members(), source_of(x_ND), CPU)
    checkpoint = tmp_path_factory.mktemp("run") / "train.pt"
    for step in stops:
        with pytest.raises(Stopped):
            train_all(GRID.members(), source_of(x_ND), CPU, checkpoint=checkpoint, update=stop_at(step))
    resumed = train_all(GRID.members(), source_of(x_ND), CPU, checkpoint=checkpoint)
    assert all(map(same, whole, resumed))


def test_one_that_diverges_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    specs = [spec_of(), spec_of(lr=1.0, architecture="relu", aux_alpha=0.0), spec_of(seed=1)]
    monkeypatch.setattr(engine, "_LOG_S", 0.0)
    plain_step = engine.SAETrainer.step

    def step(self: Any, y_BD: Tensor, lr: float, target_BD: Tensor | None = None) -> Any:
        result = plain_step(self, y_BD, lr, target_BD)
        if self.spec.architecture == "relu" and self.steps_done == 8:
            result.loss = torch.tensor(float("nan"))
        return result

    monkeypatch.setattr(engine.SAETrainer, "step", step)
    checkpoint = tmp_path / "train.pt"
    rows: list[dict[str, Any]] = []
    with pytest.raises(Stopped):
        train_all(specs, source_of(x_ND), CPU, checkpoint=checkpoint, update=stop_at(12))
    first, second, third = train_all(specs, source_of(x_ND), CPU, checkpoint=checkpoint,
                                     row=lambda **row: rows.append(row))
    assert isinstance(second, UserError)
    assert "no longer a number at step 7" in str(second)
    assert second.field == "lr"
    assert same(first, train(specs[0], source_of(x_ND), CPU))
    assert same(third, train(specs[2], source_of(x_ND), CPU))
    assert {row["member"] for row in rows} == {0, 2}
    written = rows_of(specs, source_of(x_ND), CPU)
    assert [row["member"] for row in written if "error" in row] == [1]
    assert [row["member"] for row in written if row["step"] == 20] == [0, 2]


# ---- transcoders


def pairs(n_tokens: int = 3000, size: float = 0.05) -> tuple[StoredActivations, Tensor]:
    """Return inputs and the targets that they determine: another direction for each input feature; both [N, 16 + 12].
    """
    x_ND, features_GD = mixtures(n_tokens, 30, 16)
    generator = torch.Generator().manual_seed(5)
    out_GD = torch.randn(30, 12, generator=generator)
    strength_NG = ((x_ND - 0.5) @ torch.linalg.pinv(features_GD)).clamp(min=0)
    both_NW = torch.cat([x_ND, size * (torch.tanh(strength_NG) @ out_GD + 6)], dim=1)
    return StoredActivations(both_NW, 64, seed=2, widths=(16, 12)), both_NW


def transcoder_spec(**values: Any) -> TrainSpec:
    return spec_of(site="ln2.hook_normalized", out_site="hook_mlp_out", n_latents=64, **values)


@pytest.mark.parametrize(("architecture", "normalize"), [
    ("batch_topk", "none"), ("batch_topk", "dataset"), ("topk", "layer_norm"), ("matryoshka", "dataset")])
def test_a_transcoder_learns_its_target_and_takes_raw_activations(
    architecture: str, normalize: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_LOG_S", 0.0)  # the last row is the last step's, however fast the machine is
    source, both_NW = pairs(size=1.0 if normalize == "none" else 0.05)  # nothing else brings a small target to size
    spec = transcoder_spec(architecture=architecture, normalize=normalize, tokens=64 * 400, lr=3e-3, k=4)
    rows: list[dict[str, Any]] = []
    trained = train(spec, source, CPU, row=lambda **row: rows.append(row))
    assert rows[-1]["fvu"] < 0.5
    config = {**config_of(spec), "site": {"layer": 2, "hook": spec.hook, "out_hook": spec.out_hook}, "d_in": 16}
    sae = artefact(trained, config)
    assert sae.is_transcoder
    x_ND, target_ND = both_NW.split([16, 12], dim=1)
    if sae.sparsity.threshold is not None:  # TopK's own selection, so that both are the same function
        sae.sparsity.threshold = max(sae.sparsity.threshold, 0.0)
    y_ND, t_ND, scale = trained.inputs.apply([x_ND, target_ND])
    trainer = trained.trainer
    pre_NL = (y_ND - trainer.b_in_D) @ trainer.W_enc_LD.T + trainer.b_enc_L
    s_out = trained.inputs.target.factor if trained.inputs.target else 1.0
    torch.testing.assert_close(sae.pre_activations(x_ND), pre_NL.detach() / s_out, rtol=1e-4, atol=1e-5)
    assert t_ND is not None
    torch.testing.assert_close(t_ND * scale, target_ND, rtol=1e-5, atol=1e-6)
    error = (target_ND - sae.reconstruct(x_ND)).square().sum()
    assert float(error / (target_ND - target_ND.mean(dim=0)).square().sum()) < 0.6
    assert (s_out == 1.0) == (normalize == "none")


def test_a_transcoder_goes_on_bit_for_bit(tmp_path: Path) -> None:
    source, _ = pairs(500)
    spec = transcoder_spec(normalize="dataset")
    whole = train(spec, source, CPU)
    with pytest.raises(Stopped):
        train(spec, source, CPU, checkpoint=tmp_path / "t.pt", update=stop_at(7))
    resumed = train(spec, source, CPU, checkpoint=tmp_path / "t.pt")
    assert same(whole, resumed)
    assert resumed.inputs == whole.inputs
    assert "b_in" in weights(whole)


@pytest.mark.parametrize("init", ["geometric_median", "mean"])
def test_b_dec_starts_where_it_is_asked_to(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, _ = mixtures(500, 30, 16)
    x_ND[:30] += 1000
    starts: list[Tensor] = []

    class Seen(engine.SAETrainer):
        def __init__(self, spec: TrainSpec, start: Any, *rest: Any, **more: Any) -> None:
            starts.append(start.b_dec_D)
            super().__init__(spec, start, *rest, **more)

    monkeypatch.setattr(engine, "SAETrainer", Seen)
    train(spec_of(b_dec_init=init), source_of(x_ND), CPU)
    far = float((starts[0] - x_ND[30:].mean(dim=0)).norm())
    assert far > 100 if init == "mean" else far < 10
    if init == "mean":
        torch.testing.assert_close(starts[0], x_ND.mean(dim=0))
