"""The product with its bias in columns equals the product plus the bias."""

from __future__ import annotations

import pytest
import torch

from sae.kernels.encoder import EncoderProduct


@pytest.mark.parametrize("D", [1, 14, 15, 40])
def test_it_is_the_product_of_what_was_rounded(D: int) -> None:
    product = EncoderProduct()
    generator = torch.Generator().manual_seed(0)
    for B, L in [(6, 20), (6, 20), (9, 12)]:  # memory kept, and other shapes
        x_BD, W_LD = torch.randn(B, D, generator=generator), torch.randn(L, D, generator=generator)
        b_L = 5 * torch.randn(L, generator=generator)
        got_BL = product(x_BD, W_LD, b_L, torch.bfloat16)
        assert got_BL.dtype == torch.bfloat16
        exact_BL = x_BD.bfloat16().double() @ W_LD.bfloat16().double().T + b_L
        torch.testing.assert_close(got_BL.double(), exact_BL, rtol=2**-8, atol=1e-3)


def test_the_bias_keeps_its_precision() -> None:
    """Compare where the product cancels most of the bias: a bias in one column would be off by up to 2^-9 of itself."""
    x_BD, W_LD, b_L = torch.ones(1, 1), torch.full((1, 1), -1.0), torch.tensor([1.001])
    got = EncoderProduct()(x_BD, W_LD, b_L, torch.bfloat16)
    assert float(got) == pytest.approx(0.001, rel=0.02)


def test_in_the_precision_of_the_weights_it_is_the_plain_product() -> None:
    x_BD, W_LD, b_L = torch.randn(5, 7), torch.randn(9, 7), torch.randn(9)
    product = EncoderProduct()
    product(x_BD, W_LD, b_L, torch.bfloat16)
    assert torch.equal(product(x_BD, W_LD, b_L, torch.float32), torch.addmm(b_L, x_BD, W_LD.T))
