"""Sorting of non-negative integers, and pairs of them as one.

torch sorts integers on the CPU by radix, a pass over the data for every byte of them: so they are narrowed
first to the fewest bytes that hold the largest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def paired(row_N: Tensor, rows: int, column_N: Tensor, columns: int) -> Tensor:
    """row · columns + column: the pairs as numbers in the same order, of as few bytes as hold all of them."""
    return row_N.to(torch.int32 if rows * columns < 1 << 31 else torch.int64) * columns + column_N


def stable_argsort(key_N: Tensor) -> Tensor:
    """The order that sorts non-negative integers; equal ones stay in their order."""
    return stable_sort(key_N)[1]


def stable_sort(key_N: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted integers, perhaps of fewer bytes, and the order that sorts them."""
    return torch.sort(_narrow(key_N), stable=True)


def counted(key_N: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of non-negative integers, ascending, and how often each occurs."""
    key_N = torch.sort(_narrow(key_N)).values
    distinct, counts = torch.unique_consecutive(key_N, return_counts=True)
    return distinct.long(), counts


def _narrow(key_N: Tensor) -> Tensor:
    if key_N.device.type != "cpu" or not len(key_N):
        return key_N
    top = int(key_N.max())
    return key_N.to(torch.int16 if top < 1 << 15 else torch.int32 if top < 1 << 31 else torch.int64)


def merged_order(key_N: Tensor) -> Tensor:
    """The order that sorts a few sorted runs of int64, one after the other; equal ones stay in their order."""
    return torch.from_numpy(np.argsort(key_N.numpy(), kind="stable"))  # timsort, which merges runs
