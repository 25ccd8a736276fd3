"""Who computes: torch's own operations, or the Triton kernels where a tensor lies on a GPU and Triton is there.

`SAESCOPE_TRITON=0` leaves everything to torch, for comparisons.
"""

from __future__ import annotations

import functools
import importlib.util
import os

from torch import Tensor


def on_gpu(tensor: Tensor) -> bool:
    """Whether the Triton kernels are to work on this tensor."""
    return tensor.is_cuda and _triton()


@functools.cache
def _triton() -> bool:
    return importlib.util.find_spec("triton") is not None and os.environ.get("SAESCOPE_TRITON", "1") != "0"
