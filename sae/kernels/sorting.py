"""Sorting of non-negative integers, and of pairs of them packed into one integer.

torch sorts integers on the CPU by radix, with one pass over the data for every byte.  So the integers are first
narrowed to the fewest bytes that hold the largest of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def paired(row_N: Tensor, rows: int, column_N: Tensor, columns: int) -> Tensor:
    """Pack each pair as row · columns + column, which sorts in the same order, in the narrowest type that holds all
    pairs.
    """
    return row_N.to(torch.int32 if rows * columns < 1 << 31 else torch.int64) * columns + column_N


def stable_argsort(key_N: Tensor) -> Tensor:
    """Return the order that sorts non-negative integers; equal ones stay in their order."""
    return stable_sort(key_N)[1]


def stable_sort(key_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sorted integers, possibly in a narrower type, and the order that sorts them."""
    return torch.sort(_narrow(key_N), stable=True)


def counted(key_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct values of non-negative integers, ascending, and the number of times each occurs."""
    key_N = torch.sort(_narrow(key_N)).values
    distinct, counts = torch.unique_consecutive(key_N, return_counts=True)
    return distinct.long(), counts


def _narrow(key_N: Tensor) -> Tensor:
    if key_N.device.type != "cpu" or not len(key_N):
        return key_N
    top = int(key_N.max())
    return key_N.to(torch.int16 if top < 1 << 15 else torch.int32 if top < 1 << 31 else torch.int64)


def merged_order(key_N: Tensor) -> Tensor:
    """Return the order that sorts a concatenation of a few sorted runs of int64; equal ones stay in their order."""
    return torch.from_numpy(np.argsort(key_N.numpy(), kind="stable"))  # timsort, which merges runs
