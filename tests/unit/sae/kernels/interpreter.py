"""Where Triton kernels can be tested: on a GPU, or else under Triton's interpreter on the CPU.

Imported before the kernels are, because Triton looks at the variable when a kernel is defined.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
