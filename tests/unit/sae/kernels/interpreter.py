"""The device on which Triton kernels can be tested: a GPU, or else the CPU with Triton's interpreter.

Import this before the kernels, because Triton reads the variable when a kernel is defined.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")
if not torch.cuda.is_available():
    from tests.pretended.launches import patch_once_a_launch
    from tests.pretended.rounding import round_as_a_gpu_does

    round_as_a_gpu_does()
    patch_once_a_launch()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
