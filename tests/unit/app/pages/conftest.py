"""A program with two browsable SAEs."""

from __future__ import annotations

import shutil

import pytest
from fastapi.testclient import TestClient

from sae.runs.folder import RunFolder
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.builds import Synthetic, make_build

BATCH, TOP = "demo/2-res-batchtopk-4k", "demo/2-res-topk-4k"
METRICS = {"fvu": 0.1842, "l0": 12.01, "delta_ce": 0.081, "dead": 17, "dead_fraction": 0.05, "tokens": 100_000}


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Synthetic]:
    folder = tmp_path_factory.mktemp("builds")
    return {
        BATCH: make_build(folder / "index-1.duckdb", n_latents=160, n_contexts=40, sae_id=BATCH),
        TOP: make_build(
            folder / "index-2.duckdb", n_latents=160, n_contexts=40, sae_id=TOP, architecture="topk")}


@pytest.fixture
def browsable(client: TestClient, workspace: Workspace, made: dict[str, Synthetic]) -> TestClient:
    """The program with two SAEs, each with a build; the first with the run that made it."""
    for sae_id, build in made.items():
        target = workspace.build(sae_id, build.path.stem)
        target.parent.mkdir(parents=True)
        shutil.copy(build.path, target)
        architecture = "topk" if sae_id == TOP else "batch_topk"
        write_json(workspace.sae(sae_id) / "sae.json", {
            "schema_version": 1, "id": sae_id, "model": {"name": "demo", "id": "demo"},
            "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "architecture": architecture, "n_latents": 160,
            "d_model": 256, "k": 12, "normalize": "layer_norm", "created": 1_700_000_000.0, "metrics": METRICS,
            "run": "train-1", "training": {"text": "stdlib", "tokens": 1_500_000, "seconds": 80.0},
            "threshold": {"trained": 0.6, "calibrated": 0.62} if architecture == "batch_topk" else None})
    run = RunFolder(workspace.run("train-1"))
    run.create("train", {})
    for step in range(1, 6):
        run.append_progress({"tokens": step * 1000, "fvu": 1 / step, "l0": 12.0, "dead": 0.0})
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    return client
