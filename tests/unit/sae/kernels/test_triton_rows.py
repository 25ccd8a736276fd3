"""The small passes over rows give what torch's operations give."""

from __future__ import annotations

import pytest
import torch

from sae.kernels import encoder
from tests.unit.sae.kernels.interpreter import DEVICE

from sae.kernels import triton_rows  # isort: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("D", [1, 14, 15, 30])
def test_the_factors_of_the_product(D: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(D)
    W_LD, b_L = torch.randn(5, D, generator=generator), torch.randn(5, generator=generator)
    out = torch.zeros(5, encoder.columns(D), dtype=dtype)
    expected = encoder.with_bias(W_LD, b_L, out.clone())
    assert torch.equal(triton_rows.pack(W_LD.to(DEVICE), b_L.to(DEVICE), out.to(DEVICE)).cpu(), expected)
    expected = encoder.with_ones(W_LD, out.clone())
    assert torch.equal(triton_rows.pack(W_LD.to(DEVICE), None, out.to(DEVICE)).cpu(), expected)


def test_the_residual_and_its_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    decoded_BD, target_BD = (torch.randn(4, 9, generator=generator) for _ in range(2))
    b_dec_D = torch.randn(9, generator=generator)
    expected = target_BD - (decoded_BD + b_dec_D)
    found = decoded_BD.to(DEVICE)
    loss_B = triton_rows.residual(found, b_dec_D.to(DEVICE), target_BD.to(DEVICE), 0.25)
    torch.testing.assert_close(found.cpu(), expected)
    torch.testing.assert_close(loss_B.cpu(), 0.25 * expected.square().sum(dim=1))


def test_a_latent_with_a_pair_is_no_longer_silent() -> None:
    silent_L = torch.tensor([5, 0, 7], device=DEVICE)
    triton_rows.silence(silent_L, torch.tensor([0, 0, 2, 2], device=DEVICE), 3)
    assert silent_L.tolist() == [8, 0, 10]
