"""One training step: hand-derived gradients compared with autograd, and the step's invariants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.specs.registry import TrainSpec
from sae.training.trainer import SAETrainer
from sae.workspace.checkpoint import load_checkpoint, save_checkpoint
from tests.unit.sae.references import reference

B, L, D, K = 24, 32, 10, 4
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {}, "batch_topk": {}, "multi_topk": {"architecture": "topk", "multi_topk": True},
    "multi_batch_topk": {"architecture": "batch_topk", "multi_topk": True},
    "matryoshka": {"prefixes": "0.1, 8, 1/2, 1"}, "relu": {"l1_coefficient": 0.3}, "gated": {"l1_coefficient": 0.3},
    "jumprelu": {"l0_coefficient": 0.7, "bandwidth": 0.8},
    "jumprelu_linear": {"architecture": "jumprelu", "l0_penalty": "linear", "l0_coefficient": 0.01, "bandwidth": 0.8}}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def make(
    architecture: str, seed: int = 0, product_dtype: torch.dtype = torch.float32, d_in: int = 0, **changes: Any
) -> SAETrainer:
    """Return a trainer with parameters away from their starting point and an eighth of its latents dead.

    With `d_in` it trains a transcoder.
    """
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "architecture": architecture, "n_latents": L, "k": K, "k_aux": 3, "aux_alpha": 0.5, "tokens": 2400,
        "batch_tokens": B, "dead_after_tokens": 100, "clip_norm": 1e9, "seed": seed,
        **ARCHITECTURES[architecture], **changes}
    b_in_D = torch.randn(d_in, generator=generator) if d_in else None
    start = DataStatistics(torch.randn(D, generator=generator), variance=2.5, input_scale=1.2, b_in_D=b_in_D)
    trainer = SAETrainer(TrainSpec(**values), start, torch.device("cpu"), product_dtype)
    for parameter in trainer.parameters():
        if parameter is not trainer.W_dec_LD:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    trainer.sparsity.project()
    trainer.silent_tokens_L[::8] = 101
    trainer.silent_tokens_L[1::8] = 100  # one token short of dead
    return trainer


def batch(seed: int = 1, n_tokens: int = B, width: int = D) -> Tensor:
    return 1.5 * torch.randn(n_tokens, width, generator=torch.Generator().manual_seed(seed))


@every_architecture
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 1 / 32, 1.0]), k_aux=st.sampled_from([1, 3, 20]),
       d_in=st.sampled_from([0, 7, D]), steps_done=st.sampled_from([0, 4, 50]))
def test_gradients_are_those_of_autograd(
    architecture: str, seed: int, alpha: float, k_aux: int, d_in: int, steps_done: int
) -> None:
    trainer = make(architecture, seed, d_in=d_in, aux_alpha=alpha, k_aux=k_aux)
    trainer.steps_done = steps_done
    y_BD, target_BD = batch(seed + 1, width=d_in or D), batch(seed + 2) if d_in else None
    loss, aux, leaf = reference(trainer, y_BD, target_BD)
    loss.backward()  # type: ignore[no-untyped-call]
    result = trainer.gradients(y_BD, target_BD)
    assert float(result.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(result.aux_loss) == pytest.approx(float(aux) if alpha else 0.0, rel=1e-5)
    for name, parameter in trainer.named_parameters().items():
        expected = leaf[name].grad
        assert parameter.grad is not None
        assert expected is not None
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-3, atol=5e-6, msg=lambda m, n=name: n + m)


@every_architecture
@pytest.mark.parametrize("product_dtype", [torch.float32, torch.bfloat16])
def test_a_step_keeps_the_decoder_on_the_sphere(architecture: str, product_dtype: torch.dtype) -> None:
    trainer = make(architecture, product_dtype=product_dtype, clip_norm=0.01)
    for step in range(5):
        before_LD = trainer.W_dec_LD.detach().clone()
        trainer.step(batch(step), lr=0.01)
        grad_LD = trainer.W_dec_LD.grad
        assert grad_LD is not None
        # Adam's gradient had no component along the rows, and was clipped.
        assert (grad_LD * before_LD).sum(dim=1).abs().max() < 1e-5 * grad_LD.norm()
        assert grad_LD.norm() > 0
        own = trainer.sparsity.parameters()
        weights = {name: p for name, p in trainer.named_parameters().items() if name not in own}
        for group in (weights, own):
            norms = [p.grad.norm() for p in group.values() if p.grad is not None]
            assert not norms or float(torch.stack(norms).norm()) <= 0.01 * (1 + 1e-4)
        torch.testing.assert_close(trainer.W_dec_LD.norm(dim=1), torch.ones(L), rtol=1e-6, atol=1e-6)
        assert not torch.equal(trainer.W_dec_LD, before_LD)


def test_it_starts_with_the_encoder_as_the_decoder_transposed() -> None:
    b_dec_D = torch.randn(D)
    spec = TrainSpec(architecture="topk", n_latents=L, k=K, seed=3)
    trainer = SAETrainer(spec, DataStatistics(b_dec_D, variance=1.0, input_scale=1.0), torch.device("cpu"))
    tensors = trainer.tensors()
    assert torch.equal(tensors["W_enc"], tensors["W_dec"])
    assert tensors["W_enc"].data_ptr() != tensors["W_dec"].data_ptr()
    torch.testing.assert_close(tensors["W_dec"].norm(dim=1), torch.ones(L))
    assert torch.equal(tensors["b_dec"], b_dec_D)
    assert not tensors["b_enc"].any()
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_dead_is_counted_in_tokens_since_the_last_activation() -> None:
    trainer = make("topk", aux_alpha=0, dead_after_tokens=2 * B)
    trainer.silent_tokens_L.zero_()
    trainer.b_enc_L.data[5] = -1e6  # never active
    silent = torch.zeros(L, dtype=torch.int64)
    for step in range(3):
        result = trainer.step(batch(step), lr=1e-6)
        assert (result.codes.value_N > 0).all()
        silent += B
        silent[result.codes.latent_N] = 0
        assert torch.equal(trainer.silent_tokens_L, silent)
        assert trainer.n_dead == int((silent > 2 * B).sum())
    assert silent[5] == 3 * B


@every_architecture
def test_state_survives_a_checkpoint_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    first = make(architecture, product_dtype=torch.bfloat16)
    for step in range(3):
        first.sparsity.observe(first.step(batch(step), lr=0.01).codes)
    save_checkpoint(tmp_path / "c.pt", first.state())
    second = make(architecture, seed=9, product_dtype=torch.bfloat16)
    second.load_state(load_checkpoint(tmp_path / "c.pt"))
    for step in range(3, 7):
        results = [trainer.step(batch(step), lr=0.01) for trainer in (first, second)]
        for trainer, result in zip((first, second), results, strict=True):
            trainer.sparsity.observe(result.codes)
        assert torch.equal(results[0].loss, results[1].loss)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name
    assert torch.equal(first.silent_tokens_L, second.silent_tokens_L)
    assert first.sparsity.threshold == second.sparsity.threshold
