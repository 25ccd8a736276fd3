"""The Triton products equal the dense ones, and give the same bits every time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.sae.kernels.interpreter import DEVICE

from sae.kernels import triton_codes  # isort: skip


@st.composite
def lists(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (rows of each pair, weights, bounds of the segments, matrix) with empty segments, long ones, odd widths.
    """
    piece = triton_codes._PIECE
    lengths = draw(st.lists(st.sampled_from([0, 1, 2, 4, 5, 9, piece, piece + 1, 2 * piece + 7]),
                            max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, height, D = sum(lengths), draw(st.integers(1, 9)), draw(st.sampled_from([1, 7, 32, 33, 100, 600]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    bounds = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    return (torch.randint(height, (n,), generator=generator), torch.randn(n, generator=generator), bounds,
            torch.randn(height, D, generator=generator).to(dtype))


@settings(max_examples=10, deadline=None)
@given(lists(), st.booleans(), st.integers(0, 3))
def test_segment_sums(case: tuple[Tensor, Tensor, Tensor, Tensor], ordered: bool, n_empty: int) -> None:
    row_N, weight_N, bounds_S1, rows = case
    S = len(bounds_S1) - 1
    expected = torch.zeros(S, rows.shape[1], dtype=torch.float64)
    segment_N = torch.searchsorted(bounds_S1, torch.arange(len(row_N)), right=True) - 1
    expected.index_add_(0, segment_N, 0.5 * weight_N.double()[:, None] * rows.double()[row_N])
    segment_N, row_N, weight_N = (torch.cat([column, column.new_full((n_empty,), value)]) for column, value in (
        (segment_N, S), (row_N, 2**40), (weight_N, 0.0)))  # empty pairs are never read
    order_N = torch.randperm(len(row_N), generator=torch.Generator().manual_seed(len(row_N))) if ordered else None
    if order_N is not None:  # the list names its pairs, which are in another order
        row_N, weight_N = (torch.empty_like(column).index_copy_(0, order_N, column) for column in (row_N, weight_N))

    def sums() -> Tensor:
        on_device = [tensor.to(DEVICE) for tensor in (row_N, weight_N, bounds_S1, segment_N, rows)]
        return triton_codes.segment_sums(*on_device, None if order_N is None else order_N.to(DEVICE), scale=0.5)

    found = sums()
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, sums())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 30), D=st.sampled_from([1, 7, 16, 100, 1100]),
       dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_sampled_product(seed: int, n: int, D: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    token_N, latent_N = (torch.randint(size, (n,), generator=generator) for size in (5, 11))
    x_BD, W_LD = torch.randn(5, D, generator=generator), torch.randn(11, D, generator=generator).to(dtype)
    expected = 3 * (x_BD @ W_LD.float().T)[token_N, latent_N]
    token_N, latent_N, expected = torch.cat([token_N, torch.tensor([5])]), torch.cat([latent_N, torch.tensor([11])]), \
        torch.cat([expected, torch.zeros(1)])  # an empty pair
    found = triton_codes.sampled_product(*(tensor.to(DEVICE) for tensor in (token_N, latent_N, x_BD, W_LD)), 3.0)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-4)
