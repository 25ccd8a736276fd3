"""AuxK: dead latents learn from the remaining error, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.training.auxk import auxk
from tests.unit.sae.training.test_trainer import L, batch, make


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_only_dead_rows_get_the_auxiliary_gradient_and_their_encoder_rows_do(architecture: str) -> None:
    with_aux, without = make(architecture, aux_alpha=0.5), make(architecture, aux_alpha=0.0)
    for trainer in (with_aux, without):
        trainer.W_enc_LD.data[::8] *= 0.1  # too weak to be selected
        selected = trainer.gradients(batch()).codes.latent_N.tolist()
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


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
def test_the_loss_and_its_gradients_are_those_of_autograd(seed: int, n_dead: int, k_aux: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre_BM, input_BD, error_BD = (torch.randn(5, width, generator=generator) for width in (n_dead, 3, 3))
    pre_BM.requires_grad_()
    W_dec_MD = torch.randn(n_dead, 3, generator=generator, requires_grad=True)
    acts_BM = pre_BM.relu()
    kept = torch.zeros_like(acts_BM).scatter_(1, acts_BM.topk(min(k_aux, n_dead), dim=1).indices, 1.0)
    rest_BD = error_BD - (acts_BM * kept) @ W_dec_MD
    loss = rest_BD.square().sum() / (error_BD - error_BD.mean(dim=0)).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    found = auxk(pre_BM.detach(), input_BD, error_BD, W_dec_MD.detach(), k_aux, n_dead)
    assert found is not None
    assert pre_BM.grad is not None
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.grad_W_dec_MD, W_dec_MD.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad_pre_M, pre_BM.grad.sum(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad_W_enc_MD, pre_BM.grad.T @ input_BD, rtol=1e-4, atol=1e-5)


def test_there_is_no_loss_without_dead_latents_or_without_an_error() -> None:
    pre_BM, x_BD, W_dec_MD = torch.ones(4, 2), torch.randn(4, 3), torch.ones(2, 3)
    assert auxk(pre_BM[:, :0], x_BD, x_BD, W_dec_MD[:0], 3, 0) is None
    assert auxk(pre_BM, x_BD, torch.zeros(4, 3), W_dec_MD, 3, 2) is None
