"""The sparse products equal the dense ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.kernels.codes import Codes


@dataclass
class Case:
    dense_BL: Tensor
    codes: Codes
    x_BD: Tensor
    W_LD: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a sparse matrix with empty rows and columns (or nothing at all) and two dense ones to multiply by."""
    B, L, D = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.1, 0.4, 1.0]))
    chosen = torch.rand(B, L, generator=generator) < density
    dense_BL = torch.where(chosen, torch.rand(B, L, generator=generator) + 0.1, 0.0)
    flat = dense_BL.reshape(-1).nonzero().squeeze(1)
    codes = Codes.from_flat(flat, dense_BL.reshape(-1)[flat], B, L)
    return Case(dense_BL, codes, torch.randn(B, D, generator=generator), torch.randn(L, D, generator=generator))


def dense_of(codes: Codes) -> Tensor:
    out = torch.zeros(codes.n_tokens, codes.n_latents)
    out[codes.token_N, codes.latent_N] = codes.value_N
    return out


@settings(max_examples=80, deadline=None)
@given(cases())
def test_products_equal_the_dense_ones(case: Case) -> None:
    dense_BL, codes = case.dense_BL, case.codes
    assert torch.equal(dense_of(codes), dense_BL)
    assert torch.equal(codes.l0_B(), (dense_BL > 0).sum(dim=1))
    torch.testing.assert_close(codes.latent_sum_L(), dense_BL.sum(dim=0))
    torch.testing.assert_close(codes.decode(case.W_LD), dense_BL @ case.W_LD)
    torch.testing.assert_close(codes.transpose_matmul(case.x_BD), dense_BL.T @ case.x_BD)
    expected_N = (case.x_BD @ case.W_LD.T)[codes.token_N, codes.latent_N]
    torch.testing.assert_close(codes.sampled_product(case.x_BD, case.W_LD), expected_N)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_other_values_on_the_same_pairs(case: Case) -> None:
    codes = case.codes
    codes.decode(case.W_LD), codes.transpose_matmul(case.x_BD)  # fill the cached properties of the pairs
    doubled = codes.with_values(codes.value_N * 2)
    torch.testing.assert_close(doubled.decode(case.W_LD), 2 * case.dense_BL @ case.W_LD)
    torch.testing.assert_close(doubled.transpose_matmul(case.x_BD), 2 * case.dense_BL.T @ case.x_BD)
    torch.testing.assert_close(codes.decode(case.W_LD), case.dense_BL @ case.W_LD)


@settings(max_examples=40, deadline=None)
@given(cases(), st.lists(st.integers(0, 9), max_size=3))
def test_consecutive_pieces_concatenate_to_the_whole(case: Case, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(case.dense_BL)) for cut in cuts), len(case.dense_BL)]
    parts = []
    for start, end in pairwise(bounds):
        piece = case.dense_BL[start:end]
        flat = piece.reshape(-1).nonzero().squeeze(1)
        parts.append(Codes.from_flat(flat, piece.reshape(-1)[flat], len(piece), piece.shape[1]))
    whole = Codes.concatenate(parts)
    assert torch.equal(dense_of(whole), case.dense_BL)
    assert torch.equal(whole.token_N, case.codes.token_N)
    torch.testing.assert_close(whole.decode(case.W_LD), case.dense_BL @ case.W_LD)


def test_unsorted_latents_within_a_token_change_nothing() -> None:
    """Use TopK's codes, whose latents come in any order."""
    generator = torch.Generator().manual_seed(0)
    x_BD, W_LD = torch.randn(2, 5, generator=generator), torch.randn(9, 5, generator=generator)
    codes = Codes(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([7, 2, 4, 8, 0]), torch.rand(5), 2, 9)
    expected_N = (x_BD @ W_LD.T)[codes.token_N, codes.latent_N]
    torch.testing.assert_close(codes.sampled_product(x_BD, W_LD), expected_N)
    torch.testing.assert_close(codes.transpose_matmul(x_BD), dense_of(codes).T @ x_BD)
