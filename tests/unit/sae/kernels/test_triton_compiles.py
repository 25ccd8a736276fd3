"""Every Triton kernel compiles to machine code for the GPUs of NVIDIA and AMD, without one, and none spills.

The interpreter allows Python's liberties with types and control flow; the compiler does not.  The table of all forms
(`benchmarks.kernel_table`) takes minutes, so that this compiles one form of each kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")


@pytest.mark.slow
@pytest.mark.parametrize("targets", [
    ("sm_80", "gfx942"), pytest.param(("sm_90", "sm_100"), marks=pytest.mark.heavy)])  # NVIDIA's differ little
def test_every_kernel_compiles_without_spills(targets: tuple[str, ...], tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-m", "benchmarks.kernel_table", "--brief", "--json", "--targets", *targets],
                          cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = json.loads(done.stdout.splitlines()[-1])["results"]["kernels"]
    assert len(kernels) == len({kernel["kernel"] for kernel in kernels})
    for kernel in kernels:
        for target in targets:
            assert kernel[target]["spilled"] == 0, (kernel["kernel"], target)
            assert 0 < kernel[target]["registers"] <= 255


def test_no_kernel_is_missing_from_the_list() -> None:
    from benchmarks._gpu_kernels import cases
    from sae.kernels import triton_adam, triton_batch_topk, triton_codes, triton_rows, triton_select

    modules = (triton_adam, triton_batch_topk, triton_codes, triton_rows, triton_select)
    written = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert {case.kernel.__name__ for case in cases()} == written
