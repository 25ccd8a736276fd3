"""Runs of equal numbers, and runs of numbers that follow each other, many at once.

Shapes: N numbers, R runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def run_starts(number_N: Tensor) -> Tensor:
    """Where each run of equal numbers begins."""
    number = number_N.numpy()
    return torch.from_numpy(np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1]])[: len(number)]))


def run_sizes(start_R: Tensor, total: int) -> Tensor:
    """How long each is, of `total` numbers."""
    return torch.from_numpy(np.diff(start_R.numpy(), append=total))


def rank_within(group_N: Tensor) -> Tensor:
    """0, 1, 2, … within each run of equal numbers."""
    start_R = run_starts(group_N)
    place = np.arange(len(group_N))
    place -= np.repeat(start_R.numpy(), run_sizes(start_R, len(group_N)).numpy())  # many times faster than torch's
    return torch.from_numpy(place)


def repeated(size_R: Tensor) -> Tensor:
    """0, 1, 2, …, each as often as its size says."""
    return torch.from_numpy(np.repeat(np.arange(len(size_R)), size_R.numpy()))


def spread(start_R: Tensor, size_R: Tensor) -> tuple[Tensor, Tensor]:
    """start, start + 1, … (`size` numbers) for each row, one row after another; and each number's row."""
    row_N = repeated(size_R)
    return (start_R - (size_R.cumsum(0) - size_R))[row_N] + torch.arange(len(row_N)), row_N
