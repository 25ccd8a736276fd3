"""Rounding to bfloat16 in Triton's interpreter as a GPU does it: to the nearest, ties to even; Triton 3.7 truncates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_convert = interpreter._convert_float


def _rounded(values: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
    if source == tl.float32 and target == tl.bfloat16:
        with torch._C.DisableTorchFunction():
            numbers = torch.from_numpy(np.ascontiguousarray(values).view(np.float32).copy())
            return numbers.bfloat16().view(torch.uint16).numpy().reshape(values.shape)
    return np.asarray(_convert(values, source, target, mode))


def round_as_a_gpu_does() -> None:
    """Make the interpreter of this process round to bfloat16 as a GPU does."""
    interpreter._convert_float = _rounded
