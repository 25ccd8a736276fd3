"""The Triton selections keep the same entries as torch's, and resolve ties as documented."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.kernels import select
from sae.kernels.codes import Codes
from tests.unit.sae.kernels.interpreter import DEVICE

from sae.kernels import triton_select  # isort: skip

FLOATS = [-1.0, 0.0, 1e-45, 1e-38, 0.5, 0.50000006, 1.0, 3e38]


@st.composite
def pre_activations(draw: st.DrawFn) -> Tensor:
    """Draw [B, L] with many ties or none, mostly or wholly positive or negative, in either precision, B or L odd."""
    B, L = draw(st.integers(1, 6)), draw(st.sampled_from([1, 5, 16, 31, 33, 64, 130, 257]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    pre_BL = torch.randn(B, L, generator=generator) + draw(st.sampled_from([-30.0, -2.5, 0.0, 1.0, 30.0]))
    if draw(st.booleans()):
        pre_BL = (pre_BL * 2).round() / 2
    if draw(st.booleans()):
        pre_BL[draw(st.integers(0, B - 1))] = -1.0  # a token with nothing positive
    return pre_BL.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


def same(found: Codes, expected: Codes) -> None:
    assert found.token_N.cpu().tolist() == expected.token_N.tolist()
    assert found.latent_N.cpu().tolist() == expected.latent_N.tolist()
    assert torch.equal(found.value_N.cpu(), expected.value_N)
    assert found.value_N.dtype == torch.float32
    assert (found.n_tokens, found.n_latents) == (expected.n_tokens, expected.n_latents)


@settings(max_examples=20, deadline=None)
@given(pre_activations(), st.sampled_from([1, 2, 3, 17, 40, 300, 5000]))
def test_batch_topk(pre_BL: Tensor, n_keep: int) -> None:
    same(triton_select.batch_topk(pre_BL.to(DEVICE), n_keep), select.batch_topk(pre_BL, n_keep))


@settings(max_examples=10, deadline=None)
@given(pre_activations(), st.sampled_from([1, 17, 5000]))
def test_a_padded_selection_has_the_same_pairs_and_then_empty_ones(pre_BL: Tensor, n_keep: int) -> None:
    B, L = pre_BL.shape
    found = triton_select.batch_topk(pre_BL.to(DEVICE), n_keep, padded=True)
    expected = select.batch_topk(pre_BL, n_keep)
    n = len(expected.value_N)
    assert len(found.value_N) == min(n_keep, B * L)
    assert found.padded
    assert int(found.bounds_B1[-1]) == n
    same(Codes(found.token_N[:n], found.latent_N[:n], found.value_N[:n], B, L), expected)
    assert set(found.token_N[n:].tolist()) <= {B}
    assert set(found.latent_N[n:].tolist()) <= {L}
    assert not found.value_N[n:].any()


@settings(max_examples=20, deadline=None)
@given(pre_activations(), st.sampled_from([1, 2, 3, 17, 40]))
def test_row_topk_keeps_the_lowest_latents_of_equals(pre_BL: Tensor, k: int) -> None:
    k = min(k, pre_BL.shape[1])
    order_BL = pre_BL.float().sort(dim=1, descending=True, stable=True).indices[:, :k]
    keep_BL = torch.zeros_like(pre_BL, dtype=torch.bool).scatter_(1, order_BL, True) & (pre_BL > 0)
    flat = keep_BL.reshape(-1).nonzero().squeeze(1)
    same(triton_select.row_topk(pre_BL.to(DEVICE), k),
         Codes.from_flat(flat, pre_BL.reshape(-1)[flat].float(), *pre_BL.shape))


@settings(max_examples=20, deadline=None)
@given(pre_activations(), st.sampled_from(["one", "latent", "token"]), st.sampled_from([-1.0, 0.0, 0.7]))
def test_entries_above(pre_BL: Tensor, kind: str, level: float) -> None:
    B, L = pre_BL.shape
    bound = {"one": torch.tensor(level), "latent": torch.linspace(level, level + 1, L),
             "token": torch.linspace(level, level + 1, B)[:, None]}[kind]
    flat = (pre_BL > bound).reshape(-1).nonzero().squeeze(1)
    same(triton_select.entries_above(pre_BL.to(DEVICE), bound.to(DEVICE)),
         Codes.from_flat(flat, pre_BL.reshape(-1)[flat].float(), *pre_BL.shape))
    if kind == "one":
        same(triton_select.entries_above(pre_BL.to(DEVICE), level),
             Codes.from_flat(flat, pre_BL.reshape(-1)[flat].float(), *pre_BL.shape))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(FLOATS), max_size=40), st.integers(1, 50))
def test_the_kth_largest_of_positive_floats_to_the_last_bit(values: list[float], k: int) -> None:
    positive = sorted((value for value in torch.tensor(values).tolist() if value > 0), reverse=True)
    bits = triton_select.kth_largest_bits(torch.tensor(values, device=DEVICE), k)
    if positive:
        assert float(bits.view(torch.float32)) == positive[min(k, len(positive)) - 1]
    else:
        assert int(bits) == 2**31 - 1


@pytest.mark.parametrize("per_row", [1, 32, 64])
def test_runs_are_longer_in_longer_rows(per_row: int) -> None:
    lengths = [triton_select.run_length(L, per_row) for L in (64, 3072, 12_288, 131_072, 4_194_304)]
    assert lengths == sorted(lengths)
    assert set(lengths) <= {16, 32, 64, 128}
