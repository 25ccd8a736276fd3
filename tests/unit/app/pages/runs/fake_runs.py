"""Runs in any state, whose programs are not really there."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.jobs import queue
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace


def run_in(client: TestClient, workspace: Workspace, state: str = "queued", **status: object) -> str:
    """A run in `state`, whose program (not really there) has said `status`."""
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "train", {"model": "demo", "layer": 2, "name": "x<b>"}, "ada")
        if state != "queued":
            queue.transition(db, run.id, {"queued"}, state=state, started=1.0)
    if status:
        folder = RunFolder(workspace.run(run.id))
        folder.write_status(Status(**{"state": "running", **status}))  # type: ignore[arg-type]
        for step in range(3):
            folder.append_progress({
                "phase": "training", "tokens": 1000 * step, "fvu": 0.5 - 0.1 * step, "l0": 32, "dead": 0.1,
                "tokens_per_s": 900, "lm_share": 0.25})
        folder.log.write_text("reading\rtraining <script>\n")
    return run.id


PHASES = {"phases": ["text", "training", "index"], "phase": "training", "done": 2000, "total": 10_000, "overall": 0.3,
          "rate": 950.0, "eta_s": 190.0}
