"""Runs compared with those that a loop finds."""

from __future__ import annotations

from itertools import groupby

import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.kernels.segments import rank_within, repeated, run_sizes, run_starts, spread

NUMBERS = st.lists(st.integers(0, 3), max_size=30)


@given(NUMBERS)
def test_runs_of_equal_numbers(numbers: list[int]) -> None:
    number_N = torch.tensor(numbers, dtype=torch.int64)
    sizes = [len(list(run)) for _, run in groupby(numbers)]
    start_R = run_starts(number_N)
    assert start_R.tolist() == [sum(sizes[:i]) for i in range(len(sizes))]
    assert run_sizes(start_R, len(numbers)).tolist() == sizes
    assert rank_within(number_N).tolist() == [i for size in sizes for i in range(size)]


@given(NUMBERS)
def test_runs_of_numbers_that_follow_each_other(sizes: list[int]) -> None:
    size_R, start_R = torch.tensor(sizes, dtype=torch.int64), 7 * torch.arange(len(sizes))
    assert repeated(size_R).tolist() == [r for r, size in enumerate(sizes) for _ in range(size)]
    number_N, row_N = spread(start_R, size_R)
    assert number_N.tolist() == [7 * r + i for r, size in enumerate(sizes) for i in range(size)]
    assert row_N.tolist() == repeated(size_R).tolist()
