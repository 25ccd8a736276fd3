"""Runs of equal numbers, and ranges of consecutive numbers, many at once.

Shapes: N numbers, R runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def run_starts(number_N: Tensor) -> Tensor:
    """Return the index at which each run of equal numbers begins, [R]."""
    number = number_N.numpy()
    return torch.from_numpy(np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1]])[: len(number)]))


def run_sizes(start_R: Tensor, total: int) -> Tensor:
    """Return the length of each run, of `total` numbers, [R]."""
    return torch.from_numpy(np.diff(start_R.numpy(), append=total))


def rank_within(group_N: Tensor) -> Tensor:
    """Return 0, 1, 2, … within each run of equal numbers, [N]."""
    start_R = run_starts(group_N)
    rank = np.arange(len(group_N))
    rank -= np.repeat(start_R.numpy(), run_sizes(start_R, len(group_N)).numpy())  # many times faster than torch's
    return torch.from_numpy(rank)


def repeated(size_R: Tensor) -> Tensor:
    """Return 0, 1, 2, …, each repeated `size` times, [N]."""
    return torch.from_numpy(np.repeat(np.arange(len(size_R)), size_R.numpy()))


def spread(start_R: Tensor, size_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return start, start + 1, … (`size` numbers) for each run, one run after another; and the run of each number."""
    row_N = repeated(size_R)
    at_N = (start_R - (size_R.cumsum(0) - size_R)).index_select(0, row_N)
    at_N += torch.arange(len(row_N))
    return at_N, row_N
