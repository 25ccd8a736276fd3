"""The order of packed keys against torch's stable sort."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.kernels.sorting import counted, stable_argsort

LARGEST = 2**63 - 1


@given(keys=st.lists(st.integers(0, 5) | st.integers(0, LARGEST) | st.integers(LARGEST - 3, LARGEST), max_size=60))
def test_the_order_is_stable_and_sorts(keys: list[int]) -> None:
    key_N = torch.tensor(keys, dtype=torch.int64)
    assert torch.equal(stable_argsort(key_N), torch.argsort(key_N, stable=True))


@given(keys=st.lists(st.integers(0, 5) | st.integers(0, LARGEST), max_size=40))
def test_counting(keys: list[int]) -> None:
    distinct, count = counted(torch.tensor(keys, dtype=torch.int64))
    assert dict(zip(distinct.tolist(), count.tolist(), strict=True)) == {key: keys.count(key) for key in keys}
    assert distinct.tolist() == sorted(set(keys))


def test_narrow_integers() -> None:
    key_N = torch.tensor([3, 1, 3, 0], dtype=torch.int32)
    assert stable_argsort(key_N).tolist() == [3, 1, 0, 2]
