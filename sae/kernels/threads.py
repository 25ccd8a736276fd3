"""Torch's threads, divided among threads of Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads_divided(n: int) -> Iterator[None]:
    """Divide torch's threads by `n` for the time of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // n))
    try:
        yield
    finally:
        torch.set_num_threads(before)
