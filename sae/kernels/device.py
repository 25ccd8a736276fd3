"""The choice between torch's own operations and the Triton kernels, which are used for tensors on a GPU if Triton is
installed.

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
    """Return whether the Triton kernels should be used for this tensor."""
    return tensor.is_cuda and _triton()


def wide(tensor: Tensor) -> Tensor:
    """Return the numbers in float64; on the CPU if the device is an Apple GPU, which has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def has_fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware."""
    return any(getattr(torch.cpu, name, lambda: False)() for name in (
        "_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which long sums are kept on a device: float64, or float32 on an Apple GPU."""
    return torch.float32 if device.type == "mps" else torch.float64


def on_its_device(function: Callable[P, T]) -> Callable[P, T]:
    """Make the device of the first argument, a tensor, current during the call, because Triton launches on the current
    device.
    """
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.cuda.device_of(args[0]):  # type: ignore[no-untyped-call]
            return function(*args, **kwargs)

    return wrapped


@functools.cache
def _triton() -> bool:
    return importlib.util.find_spec("triton") is not None and os.environ.get("SAESCOPE_TRITON", "1") != "0"
