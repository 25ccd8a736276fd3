"""Selection keeps exactly what a full sort would keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.kernels import select
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold, batch_topk, row_topk

Triplet = tuple[int, int, float]


@st.composite
def pre_activations(draw: st.DrawFn) -> Tensor:
    """Draw [B, L] with many ties or none, mostly positive or mostly not, in either precision."""
    B = draw(st.integers(1, 9))
    L = draw(st.sampled_from([1, 5, 16, 31, 32, 48, 64, 256]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shift = draw(st.sampled_from([-2.5, -1.0, 0.0, 1.0]))
    pre_BL = torch.randn(B, L, generator=generator) + shift
    if draw(st.booleans()):
        pre_BL = (pre_BL * 2).round() / 2
    return pre_BL.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


def triplets(codes: Codes) -> list[Triplet]:
    return list(zip(codes.token_N.tolist(), codes.latent_N.tolist(), codes.value_N.tolist(), strict=True))


def positive(pre_BL: Tensor) -> list[Triplet]:
    """Return every positive entry, in the order of (token, latent)."""
    return [(token, latent, value) for token, row in enumerate(pre_BL.float().tolist())
            for latent, value in enumerate(row) if value > 0]


@settings(max_examples=200, deadline=None)
@given(pre_activations(), st.integers(1, 700))
def test_batch_topk_is_a_full_sort(pre_BL: Tensor, n_keep: int) -> None:
    strongest = sorted(positive(pre_BL), key=lambda e: (-e[2], e[0], e[1]))[:n_keep]
    codes = batch_topk(pre_BL, n_keep)
    assert triplets(codes) == sorted(strongest)
    assert codes.value_N.dtype == torch.float32
    assert (codes.n_tokens, codes.n_latents) == tuple(pre_BL.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_topk_gives_ties_at_the_cut_to_the_lowest_token_then_latent(dtype: torch.dtype) -> None:
    pre_BL = torch.ones(4, 32, dtype=dtype)
    pre_BL[3, 31] = 2
    assert triplets(batch_topk(pre_BL, 34)) == [
        *((0, latent, 1.0) for latent in range(32)), (1, 0, 1.0), (3, 31, 2.0)]


@settings(max_examples=60, deadline=None)
@given(pre_activations(), st.integers(1, 200), st.sampled_from([1, 3, 10, 40]))
def test_a_wrong_guess_of_the_cut_is_taken_back(pre_BL: Tensor, n_keep: int, sample: int) -> None:
    """Use a sample that is far too small, so that the guess is often too high."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "_SAMPLE", sample)
        guessed = triplets(batch_topk(pre_BL, n_keep))
    assert guessed == sorted(sorted(positive(pre_BL), key=lambda e: (-e[2], e[0], e[1]))[:n_keep])


def test_an_outlier_among_the_sampled_is_no_cut() -> None:
    pre_BL = torch.full((64, 64), 0.5)
    pre_BL.reshape(-1)[:: (4096 // 64) | 1] = 9.0  # the whole sample and nothing else
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "_SAMPLE", 64)
        codes = batch_topk(pre_BL, 300)
    assert len(codes.value_N) == 300
    assert codes.value_N.min() == 0.5


def test_batch_topk_does_not_see_one_token_only() -> None:
    pre_BL = torch.zeros(3, 16)
    pre_BL[1] = torch.arange(1.0, 17.0)
    codes = batch_topk(pre_BL, 3 * 4)
    assert codes.l0_B().tolist() == [0, 12, 0]


@settings(max_examples=100, deadline=None)
@given(pre_activations(), st.data())
def test_row_topk_keeps_the_k_largest_positive_of_each_row(pre_BL: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, pre_BL.shape[1]))
    codes = row_topk(pre_BL, k)
    entries = positive(pre_BL)
    assert codes.token_N.tolist() == sorted(codes.token_N.tolist())
    assert set(triplets(codes)) <= set(entries)
    assert len(set(triplets(codes))) == len(codes.value_N)
    for token in range(len(pre_BL)):  # equal values at the cut may go to any latent
        kept = sorted((v for t, _, v in triplets(codes) if t == token), reverse=True)
        assert kept == sorted((v for t, _, v in entries if t == token), reverse=True)[:k]


@settings(max_examples=100, deadline=None)
@given(pre_activations(), st.sampled_from([-1.0, 0.0, 0.5, 1.5]), st.booleans())
def test_above_threshold_is_strict_and_positive(pre_BL: Tensor, theta: float, per_latent: bool) -> None:
    threshold = torch.full((pre_BL.shape[1],), theta, dtype=pre_BL.dtype) if per_latent else theta
    codes = above_threshold(pre_BL, threshold)
    assert triplets(codes) == [e for e in positive(pre_BL) if e[2] > theta]
    assert codes.value_N.dtype == torch.float32
