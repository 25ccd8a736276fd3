"""A workspace with an SAE, a build and an ended run, in which nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.runs.folder import RunFolder, Status
from sae.store.page_file import page_file_path
from sae.workspace.files import HOST, write_json
from sae.workspace.paths import Workspace
from tests.builds import make_build

STOCKED = "demo/2-one"
GONE = 2**22 + 1  # a process id above the largest that Linux gives


@pytest.fixture(scope="module")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("small") / "b1.duckdb", n_latents=20, n_contexts=8, sae_id=STOCKED).path


@pytest.fixture
def stocked(workspace: Workspace, small_build: Path) -> Workspace:
    write_json(workspace.sae(STOCKED) / "sae.json", {
        "architecture": "topk", "n_latents": 20, "d_model": 4, "normalize": "none",
        "model": {"name": "demo", "id": "demo"}, "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}})
    rows = np.zeros((20, 4), np.float32)
    save_file({"W_enc": rows, "W_dec": rows}, str(workspace.sae(STOCKED) / "sae.safetensors"))
    copy_build(small_build, workspace, "b1")
    run = RunFolder(workspace.run("train-1"))
    run.create("train", {})
    run.write_status(Status(state="succeeded", finished=1.0))
    return workspace


def copy_build(build: Path, workspace: Workspace, build_id: str) -> Path:
    """Copy a build with its page file into the workspace."""
    target = workspace.build(STOCKED, build_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    for source in (build, page_file_path(build)):
        target.with_suffix(source.suffix).write_bytes(source.read_bytes())
    return target


def leftover(workspace: Workspace, pid: int, host: str = HOST) -> Path:
    """Write the unfinished file of a process."""
    path = workspace.root / "corpora" / f".c.{host}-{pid}.tmp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 10)
    return path
