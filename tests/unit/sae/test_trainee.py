"""One training step: hand-derived gradients against autograd, and what the step keeps true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.checkpoint import load_checkpoint, save_checkpoint
from sae.specs import TrainSpec
from sae.start import Start
from sae.trainee import Trainee

B, L, D, K = 24, 32, 10, 4
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def make(
    architecture: str, seed: int = 0, product_dtype: torch.dtype = torch.float32, **changes: Any
) -> Trainee:
    """A trainee whose parameters have left their starting point, with an eighth of its latents dead."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "architecture": architecture, "n_latents": L, "k": K, "k_aux": 3, "aux_alpha": 0.5, "tokens": 2400,
        "batch_tokens": B, "dead_after_tokens": 100, "clip_norm": 1e9, "seed": seed, **changes}
    start = Start(torch.randn(D, generator=generator), variance=2.5, input_scale=1.0)
    trainee = Trainee(TrainSpec(**values), start, torch.device("cpu"), product_dtype)
    trainee.W_enc_LD.data += 0.3 * torch.randn(L, D, generator=generator)
    trainee.b_enc_L.data += 0.2 * torch.randn(L, generator=generator)
    trainee.silent_tokens_L[::8] = 101
    trainee.silent_tokens_L[1::8] = 100  # one token short of dead
    return trainee


def batch(seed: int = 1, n_tokens: int = B) -> Tensor:
    return 1.5 * torch.randn(n_tokens, D, generator=torch.Generator().manual_seed(seed))


def reference_loss(trainee: Trainee, y_BD: Tensor, architecture: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss and AuxK by their definitions, dense, in float64, and the leaves to differentiate."""
    leaf = {name: tensor.double().clone().requires_grad_() for name, tensor in trainee.tensors().items()}
    y_BD = y_BD.double()
    acts_BL = torch.relu((y_BD - leaf["b_dec"]) @ leaf["W_enc"].T + leaf["b_enc"])
    with torch.no_grad():
        if architecture == "topk":
            kept_BL = acts_BL >= acts_BL.sort(dim=1, descending=True).values[:, K - 1 : K]
        else:
            kept_BL = acts_BL >= acts_BL.reshape(-1).sort(descending=True).values[K * len(y_BD) - 1]
    y_hat_BD = (acts_BL * kept_BL) @ leaf["W_dec"] + leaf["b_dec"]
    fvu = (y_BD - y_hat_BD).square().sum(dim=1).mean() / trainee.variance

    e_BD = (y_BD - y_hat_BD).detach()
    dead = (trainee.silent_tokens_L > trainee.dead_after_tokens).nonzero().squeeze(1)
    z_BM = acts_BL[:, dead]
    if len(dead) > trainee.k_aux:
        z_BM = z_BM * (z_BM >= z_BM.sort(dim=1, descending=True).values[:, trainee.k_aux - 1, None]).detach()
    e_hat_BD = z_BM @ leaf["W_dec"][dead]
    aux = (e_BD - e_hat_BD).square().sum() / (e_BD - e_BD.mean(dim=0)).square().sum()
    return fvu + trainee.spec.aux_alpha * aux, aux.detach(), leaf


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 1 / 32, 1.0]), k_aux=st.sampled_from([1, 3, 20]))
def test_gradients_are_those_of_autograd(architecture: str, seed: int, alpha: float, k_aux: int) -> None:
    trainee, y_BD = make(architecture, seed, aux_alpha=alpha, k_aux=k_aux), batch(seed + 1)
    loss, aux, leaf = reference_loss(trainee, y_BD, architecture)
    loss.backward()  # type: ignore[no-untyped-call]
    result = trainee.gradients(y_BD)
    assert float(result.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(result.aux_loss) == pytest.approx(float(aux) if alpha else 0.0, rel=1e-5)
    for name, parameter in zip(NAMES, trainee.parameters(), strict=True):
        assert parameter.grad is not None
        expected = leaf[name].grad
        assert expected is not None
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_only_dead_rows_get_the_auxiliary_gradient_and_their_encoder_rows_do(architecture: str) -> None:
    with_aux, without = make(architecture, aux_alpha=0.5), make(architecture, aux_alpha=0.0)
    for trainee in (with_aux, without):
        trainee.W_enc_LD.data[::8] *= 0.1  # too weak to be selected
        selected = trainee.gradients(batch()).codes.latent_N.tolist()
    never = [latent for latent in range(0, L, 8) if latent not in selected]
    assert never
    for grown, plain in zip(with_aux.parameters()[:3], without.parameters()[:3], strict=True):
        assert grown.grad is not None
        assert plain.grad is not None
        changed_L = (grown.grad != plain.grad).reshape(L, -1).any(dim=1)
        assert not changed_L[torch.arange(L) % 8 != 0].any()
        assert plain.grad[never].abs().sum() == 0
    assert with_aux.W_enc_LD.grad is not None
    assert (with_aux.W_enc_LD.grad[never].norm(dim=1) > 0).all()


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
@pytest.mark.parametrize("product_dtype", [torch.float32, torch.bfloat16])
def test_a_step_keeps_the_decoder_on_the_sphere(architecture: str, product_dtype: torch.dtype) -> None:
    trainee = make(architecture, product_dtype=product_dtype, clip_norm=0.01)
    for step in range(5):
        before_LD = trainee.W_dec_LD.detach().clone()
        trainee.step(batch(step), lr=0.01)
        grad_LD = trainee.W_dec_LD.grad
        assert grad_LD is not None
        # What Adam saw had no part along the rows, and was clipped.
        assert (grad_LD * before_LD).sum(dim=1).abs().max() < 1e-5 * grad_LD.norm()
        assert grad_LD.norm() > 0
        total = torch.stack([p.grad.norm() for p in trainee.parameters() if p.grad is not None]).norm()
        assert float(total) <= 0.01 * (1 + 1e-4)
        torch.testing.assert_close(trainee.W_dec_LD.norm(dim=1), torch.ones(L), rtol=1e-6, atol=1e-6)
        assert not torch.equal(trainee.W_dec_LD, before_LD)


def test_it_starts_with_the_encoder_as_the_decoder_transposed() -> None:
    b_dec_D = torch.randn(D)
    spec = TrainSpec(architecture="topk", n_latents=L, k=K, seed=3)
    trainee = Trainee(spec, Start(b_dec_D, variance=1.0, input_scale=1.0), torch.device("cpu"))
    tensors = trainee.tensors()
    assert torch.equal(tensors["W_enc"], tensors["W_dec"])
    assert tensors["W_enc"].data_ptr() != tensors["W_dec"].data_ptr()
    torch.testing.assert_close(tensors["W_dec"].norm(dim=1), torch.ones(L))
    assert torch.equal(tensors["b_dec"], b_dec_D)
    assert not tensors["b_enc"].any()
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_dead_is_counted_in_tokens_since_the_last_activation() -> None:
    trainee = make("topk", aux_alpha=0, dead_after_tokens=2 * B)
    trainee.silent_tokens_L.zero_()
    trainee.b_enc_L.data[5] = -1e6  # never active
    silent = torch.zeros(L, dtype=torch.int64)
    for step in range(3):
        result = trainee.step(batch(step), lr=1e-6)
        assert (result.codes.value_N > 0).all()
        silent += B
        silent[result.codes.latent_N] = 0
        assert torch.equal(trainee.silent_tokens_L, silent)
        assert trainee.n_dead == int((silent > 2 * B).sum())
    assert silent[5] == 3 * B


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_state_survives_a_checkpoint_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    first = make(architecture, product_dtype=torch.bfloat16)
    for step in range(3):
        first.sparsity.observe(first.step(batch(step), lr=0.01).codes)
    save_checkpoint(tmp_path / "c.pt", first.state())
    second = make(architecture, seed=9, product_dtype=torch.bfloat16)
    second.load_state(load_checkpoint(tmp_path / "c.pt"))
    for step in range(3, 7):
        results = [trainee.step(batch(step), lr=0.01) for trainee in (first, second)]
        for trainee, result in zip((first, second), results, strict=True):
            trainee.sparsity.observe(result.codes)
        assert torch.equal(results[0].loss, results[1].loss)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name
    assert torch.equal(first.silent_tokens_L, second.silent_tokens_L)
    assert first.sparsity.threshold == second.sparsity.threshold
