"""The choice of installer and of torch's build in the Makefile, with a stand-in for uv."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def plan(tmp_path: Path, *assignments: str, programs: tuple[str, ...] = ()) -> str:
    """Return what `make install` would do with these programs, and none of them elsewhere, on the path."""
    for name in (*programs, "python3.11"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    path = os.pathsep.join([str(tmp_path), *(folder for folder in ("/usr/bin", "/bin") if not any(
        (Path(folder) / name).exists() for name in ("uv", "nvidia-smi")))])
    done = subprocess.run(["make", "-n", "install", *assignments], cwd=tmp_path, env={"PATH": path},
                          capture_output=True, text=True, check=True)
    return done.stdout


def test_pip_installs_where_uv_is_missing(tmp_path: Path) -> None:
    shown = plan(tmp_path, "PIP_FLAGS=--pre")
    assert "-m pip install" in shown
    assert "--pre -c constraints.txt" in shown
    assert "uv" not in shown


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")
def test_uv_takes_the_build_for_cpus_without_a_driver(tmp_path: Path) -> None:
    shown = plan(tmp_path, programs=("uv",))
    assert f"{tmp_path}/uv pip install" in shown
    assert "--torch-backend cpu" in shown
    assert "no NVIDIA driver was found" in shown


def test_uv_finds_the_build_for_a_driver(tmp_path: Path) -> None:
    assert "--torch-backend auto" in plan(tmp_path, programs=("uv", "nvidia-smi"))


@pytest.mark.parametrize(("assignment", "expected"), [("TORCH=cu128", "--torch-backend cu128"), ("UV=", "-m pip ")])
def test_both_choices_can_be_made_by_hand(tmp_path: Path, assignment: str, expected: str) -> None:
    assert expected in plan(tmp_path, assignment, programs=("uv",))
