"""Every Triton kernel compiles to machine code for an H100, without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("compile_triton.py")), "90"],
                          env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
