"""Orders and counts compared with Python's own."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.kernels.sorting import counted, stable_argsort

LARGEST = 2**63 - 1


@given(keys=st.lists(st.integers(0, 5) | st.integers(0, LARGEST) | st.integers(LARGEST - 3, LARGEST), max_size=60))
def test_the_order_is_stable_and_sorts(keys: list[int]) -> None:
    key_N = torch.tensor(keys, dtype=torch.int64)
    assert stable_argsort(key_N).tolist() == sorted(range(len(keys)), key=lambda i: keys[i])


def test_many_keys_of_any_width() -> None:  # torch sorts long tensors by another algorithm
    for top in (100, 1 << 14, 1 << 20, 1 << 40):
        key_N = torch.randint(0, top, (70_000,), generator=torch.Generator().manual_seed(top))
        assert np.array_equal(stable_argsort(key_N).numpy(), np.argsort(key_N.numpy(), kind="stable"))


@given(keys=st.lists(st.integers(0, 5) | st.integers(0, LARGEST), max_size=40))
def test_counting(keys: list[int]) -> None:
    distinct, count = counted(torch.tensor(keys, dtype=torch.int64))
    assert dict(zip(distinct.tolist(), count.tolist(), strict=True)) == {key: keys.count(key) for key in keys}
    assert distinct.tolist() == sorted(set(keys))


def test_narrow_integers() -> None:
    key_N = torch.tensor([3, 1, 3, 0], dtype=torch.int32)
    assert stable_argsort(key_N).tolist() == [3, 1, 0, 2]
