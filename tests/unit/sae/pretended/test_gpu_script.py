"""The prepared script for a machine with a GPU works from end to end, on a pretended device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")


@pytest.mark.heavy
@pytest.mark.slow
def test_a_dry_run_reports_every_part(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([ROOT / "benchmarks" / "gpu.sh", "--dry-run", "--out", out], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    text = out.read_text(encoding="utf-8")
    assert text.startswith("# The GPU path\n\nDRY RUN on a pretended device")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## steps", "## waits", "## kernels", "## training", "## index", "## decode"]
    assert "failed" not in text
    assert "NO" not in text.split()
