"""Reconstruction losses and their gradients against autograd on dense codes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.architectures.losses import (
    ReconstructionLoss,
    nested_reconstruction_loss,
    reconstruction_loss,
)
from sae.kernels.codes import Codes
from tests.unit.sae.autoencoder.architectures.batches import B, L, batch_of, dense, fvu


def codes_of(seed: int) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    kept = (torch.rand(B * L, generator=generator) < 0.4).nonzero()[:, 0]
    return Codes.from_flat(kept, torch.randn(len(kept), generator=generator), B, L)


def same(found: ReconstructionLoss, loss: Tensor, values_BL: Tensor, W_dec_LD: Tensor, b_dec_D: Tensor,
         codes: Codes) -> None:
    """Check the loss and the gradients that autograd left on the leaves."""
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.loss, loss.detach())
    for ours, theirs in ((found.grad_W_dec_LD, W_dec_LD.grad), (found.grad_b_dec_D, b_dec_D.grad)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert values_BL.grad is not None
    torch.testing.assert_close(found.grad_value_N, values_BL.grad[codes.token_N, codes.latent_N], rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_one_level(seed: int) -> None:
    batch, codes = batch_of(seed), codes_of(seed + 1)
    leaves = [tensor.clone().requires_grad_() for tensor in (dense(codes), batch.W_dec_LD, batch.b_dec_D)]
    found = reconstruction_loss(codes, batch)
    torch.testing.assert_close(found.error_BD, batch.target_BD - dense(codes) @ batch.W_dec_LD - batch.b_dec_D)
    same(found, fvu(leaves[0], batch, leaves[1], leaves[2]), *leaves, codes)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.sampled_from([0.125, 0.5, 1.0]), min_size=1, max_size=4), st.data())
def test_nested_levels(seed: int, weights: list[float], data: st.DataObject) -> None:
    batch, codes = batch_of(seed), codes_of(seed + 1)
    level_N = torch.tensor(data.draw(st.lists(
        st.integers(0, len(weights) - 1), min_size=len(codes.value_N), max_size=len(codes.value_N))), dtype=torch.int64)
    error_level = data.draw(st.integers(0, len(weights) - 1))
    leaves = [tensor.clone().requires_grad_() for tensor in (dense(codes), batch.W_dec_LD, batch.b_dec_D)]
    level_BL = torch.full((B, L), len(weights))
    level_BL[codes.token_N, codes.latent_N] = level_N
    loss = sum((weight * fvu(leaves[0] * (level_BL <= level), batch, leaves[1], leaves[2])
                for level, weight in enumerate(weights)), torch.zeros(()))
    found = nested_reconstruction_loss(codes, level_N, weights, batch, error_level)
    part_BL = dense(codes) * (level_BL <= error_level)
    torch.testing.assert_close(found.error_BD, batch.target_BD - part_BL @ batch.W_dec_LD - batch.b_dec_D,
                               rtol=1e-4, atol=1e-5)
    same(found, loss, *leaves, codes)
