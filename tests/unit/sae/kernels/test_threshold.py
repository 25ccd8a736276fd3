"""A scan finds the same entries as a comparison of every entry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.kernels import threshold
from sae.kernels.threshold import (
    above,
    below_kth_maximum,
    kth_largest,
    kth_of_rows,
    zero_below_,
    zero_where_zero_,
)

SPECIAL = [0.0, -0.0, 1e-40, -1e-40, float("inf"), -float("inf"), 3e38, 1.0, -1.0, 1.0078125, -1.0078125]


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    B, L = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    matrix_BL = torch.randn(B, L, generator=generator)
    special = torch.rand(B, L, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    matrix_BL[special] = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (int(special.sum()),), generator=generator)]
    return matrix_BL.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


@settings(max_examples=300, deadline=None)
@given(matrices(), st.sampled_from(["one", "latent", "token"]), st.integers(0, 2**32))
def test_above_is_a_comparison_of_every_entry(pre_BL: Tensor, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = {"one": (), "latent": (pre_BL.shape[1],), "token": (len(pre_BL), 1)}[kind]
    bound = torch.randn(shape, generator=generator)
    special = torch.rand(shape, generator=generator) < 0.5
    bound = torch.where(special, torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)], bound)
    expected = (pre_BL.float() > bound).reshape(-1).nonzero().squeeze(1)
    flat_N, value_N = above(pre_BL, bound)
    assert torch.equal(flat_N, expected)
    assert torch.equal(value_N, pre_BL.reshape(-1)[expected].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_and_threads_make_no_difference(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pre_BL = torch.randn(37, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    bounds = [0.3, torch.randn(10), torch.randn(37, 1)]
    whole = [above(pre_BL, bound)[0] for bound in bounds]
    monkeypatch.setattr(threshold, "_BLOCK", 70)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert all(map(torch.equal, whole, (above(pre_BL, bound)[0] for bound in bounds)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_above_nothing(dtype: torch.dtype) -> None:
    pre_BL = torch.tensor([[float("nan"), 1.0, float("inf")]], dtype=dtype)
    assert above(pre_BL, 0.5)[0].tolist() == [1, 2]
    assert above(pre_BL, float("inf"))[0].tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**32), st.booleans())
def test_the_k_largest_are_above_the_bound_of_their_row(k: int, size: int, seed: int, half: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre_BL = torch.randn(5, 8 * size, generator=generator).to(torch.bfloat16 if half else torch.float32)
    bound_B1 = below_kth_maximum(pre_BL, size, k)
    kth_B1 = pre_BL.float().sort(dim=1, descending=True).values[:, k - 1 : k]
    assert (bound_B1 >= 0).all()
    assert ((kth_B1 <= 0) | (kth_B1 > bound_B1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.booleans(), st.integers(0, 2**32), st.data())
def test_cuts_of_rows(B: int, M: int, half: bool, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    values_BM = torch.randn(B, M, generator=generator).round(decimals=1).relu().to(
        torch.bfloat16 if half else torch.float32)
    k = data.draw(st.integers(1, M))
    cut_B1 = kth_of_rows(values_BM, k)
    assert torch.equal(cut_B1, values_BM.sort(dim=1, descending=True).values[:, k - 1 : k])
    kept_BM = values_BM.T.contiguous().T.clone()  # any strides
    zero_below_(kept_BM, cut_B1)
    assert torch.equal(kept_BM, values_BM * (values_BM >= cut_B1))
    other_BM = torch.randn(B, M, generator=generator).to(values_BM.dtype)
    expected_BM = other_BM * (kept_BM > 0)
    zero_where_zero_(other_BM, kept_BM)
    assert torch.equal(other_BM, expected_BM)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30), st.data())
def test_kth_largest(values: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(values)))
    assert float(kth_largest(torch.tensor(values), n)) == sorted(values, reverse=True)[n - 1]
