"""Who computes: torch's own operations, or the Triton kernels where a tensor lies on a GPU and Triton is there.

`SAESCOPE_TRITON=0` leaves everything to torch, for comparisons.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def on_gpu(tensor: Tensor) -> bool:
    """Whether the Triton kernels are to work on this tensor."""
    return tensor.is_cuda and _triton()


def on_its_device(function: Callable[P, T]) -> Callable[P, T]:
    """Triton launches on the current device: make it that of the first argument, a tensor, during the call."""
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.cuda.device_of(args[0]):  # type: ignore[no-untyped-call]
            return function(*args, **kwargs)

    return wrapped


@functools.cache
def _triton() -> bool:
    return importlib.util.find_spec("triton") is not None and os.environ.get("SAESCOPE_TRITON", "1") != "0"
