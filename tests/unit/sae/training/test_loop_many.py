"""Many SAEs on one stream, transcoders, and the rows that the loop writes about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.errors import UserError
from sae.specs.registry import SweepSpec, TrainSpec
from sae.training import loop as engine
from sae.training.loop import StoredActivations, Trained, artefact, train, train_all
from tests.unit.sae.training.test_loop import CPU, Stopped, config_of, mixtures, source_of, spec_of, stop_at

GRID = SweepSpec(
    architecture=("batch_topk", "jumprelu", "gated", "matryoshka"), n_latents=(32, 40), k=(3,), tokens=64 * 20,
    batch_tokens=64, warmup_steps=3, k_aux=8, dead_after_tokens=200, normalize="dataset")


def weights(trained: Trained | UserError) -> dict[str, Tensor]:
    assert isinstance(trained, Trained)
    return trained.trainer.tensors()


def same(one: Trained | UserError, other: Trained | UserError) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def rows_of(*args: Any, **options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    train_all(*args, row=lambda **row: rows.append(row), **options)
    return rows


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


def test_a_row_says_how_each_stands() -> None:
    x_ND, _ = mixtures(500, 30, 16)
    rows = rows_of(GRID.members(), source_of(x_ND), CPU)
    last = rows[-8:]
    assert [row["member"] for row in last] == list(range(8))
    for row, spec in zip(last, GRID.members(), strict=True):
        assert row["step"] == 20
        assert row["tokens"] == 64 * 20
        assert row["tokens_per_s"] > 0
        assert row["sae_tokens_per_s"] >= row["tokens_per_s"]
        assert row["lm_tokens_per_s"] is None  # nothing was read
        assert row["lm_share"] == 0
        assert 0 <= row["dead"] <= 1
        assert row["theta"] > 0
        assert (row["coefficient"] is not None) == (spec.architecture in ("jumprelu", "gated"))
        assert (row["sparsity_loss"] > 0) == (spec.architecture in ("jumprelu", "gated"))
        assert row["l0_deciles"] == sorted(row["l0_deciles"])
        assert len(row["l0_deciles"]) == 9


def test_the_figures_of_a_row_are_those_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with sums over every step's codes and errors."""
    x_ND, _ = mixtures(500, 30, 16)
    spec = spec_of(normalize="layer_norm")
    seen: list[tuple[Tensor, Tensor, float]] = []
    plain_step = engine.SAETrainer.step

    def step(self: Any, y_BD: Tensor, lr: float, target_BD: Tensor | None = None) -> Any:
        result = plain_step(self, y_BD, lr, target_BD)
        l0_B = torch.bincount(result.codes.token_N, minlength=len(y_BD))
        seen.append((result.error_BD.clone(), l0_B, float(result.loss)))
        return result

    monkeypatch.setattr(engine.SAETrainer, "step", step)
    monkeypatch.setattr(engine, "_LOG_S", 1e9)
    (row,) = rows_of([spec], source_of(x_ND), CPU)
    error = variance = 0.0
    for x_BD, (error_BD, _, _) in zip(source_of(x_ND).batches(), seen, strict=False):
        error += float((error_BD * (x_BD.std(dim=1, keepdim=True) + 1e-5)).square().sum())
        variance += float((x_BD - x_BD.mean(dim=0)).square().sum())
    l0_T = torch.cat([l0_B for _, l0_B, _ in seen]).double()
    assert row["fvu"] == pytest.approx(error / variance, rel=1e-5)
    assert row["l0"] == pytest.approx(float(l0_T.mean()), rel=1e-9)
    assert row["loss"] == pytest.approx(sum(loss for _, _, loss in seen) / 20, rel=1e-6)
    ordered = l0_T.sort().values
    assert row["l0_deciles"] == [int(ordered[-(-len(ordered) * tenth // 10) - 1]) for tenth in range(1, 10)]


def test_a_long_run_writes_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the time between rows grows with the run's time and with the number of its SAEs."""
    x_ND, _ = mixtures(500, 30, 16)
    monkeypatch.setattr(engine, "_LOG_S", 0.0)
    assert len(rows_of([spec_of()], source_of(x_ND), CPU)) == 20
    monkeypatch.setattr(engine, "_ROWS", 1e-9)
    assert len(rows_of([spec_of()], source_of(x_ND), CPU)) == 1


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
def test_a_transcoder_learns_its_target_and_takes_raw_activations(architecture: str, normalize: str) -> None:
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
