"""Tests of a sweep on its run's page: its SAEs and the trade-off of FVU and L0."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.db.tables import Sae
from app.jobs import queue
from app.pages.explore.sae_views import training_rows
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae
from tests.unit.app.pages.runs.fake_runs import PHASES


def test_a_sweep_shows_its_saes_as_they_train_and_as_they_were_measured(
    client: TestClient, workspace: Workspace
) -> None:
    spec = {"architecture": ["topk", "relu"], "n_latents": [64, 128], "k": [4, 8], "l1_coefficient": [0.5]}
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "sweep", spec, "ada")
        queue.transition(db, run.id, {"queued"}, state="running", started=1.0)
    folder = RunFolder(workspace.run(run.id))
    for step in (1, 2):
        for member in range(6):
            folder.append_progress({
                "phase": "training", "step": step, "member": member, "tokens": 1000 * step,
                "fvu": 0.5 - 0.03125 * member, "l0": 4.0 + member, "dead": 0.125, "tokens_per_s": 900,
                "lm_share": 0.25})
    folder.append_progress({"phase": "training", "step": 3, "member": 5, "error": "lr: no longer a number"})
    folder.write_status(Status(**{"state": "running", **PHASES}))  # type: ignore[arg-type]
    page = client.get(f"/runs/{run.id}").text
    for shown in ("6 SAEs", "k = 4", "λ = 0.5", "0.4688", "no longer a number", "training batches", "L = 128",
                  "25% in the language model", "topk, relu; L = 64, 128"):
        assert shown in page, shown
    members = [{"name": f"demo/m{i}", "sae": f"demo/m{i}", "metrics": {
        "fvu": 0.25, "l0": 7.5, "delta_ce": 0.0625, "dead": 3, "dead_fraction": 0.046875}} for i in range(6)]
    folder.write_status(Status(**{**PHASES, "state": "running", "result": {"members": members}}))  # type: ignore[arg-type]
    write_sae(workspace, "demo/m3")
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    page = client.get(f"/runs/{run.id}/live").text
    assert 'href="/demo/m4"' not in page  # no longer there
    for shown in ('href="/demo/m3"', "0.2500", "0.062", "4.7%", "held-out text"):
        assert shown in page, shown
    one = Sae(id="demo/m3", config={"run": run.id})
    assert [row["fvu"] for row in training_rows(one, workspace)] == [0.5 - 3 * 0.03125] * 2  # its own rows alone
