"""Adoption of run folders made on the command line: each gets a row, so that pages list, show and resume it.

The server watches such a run and can ask it to stop, but the process belongs to the user of the command line: the
server does not stop it at its own end and does not restart it automatically.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Run
from app.jobs.launchers.elsewhere import ELSEWHERE
from app.jobs.launchers.local import LocalLauncher
from sae.runs.folder import FINAL_STATES, RunFolder, Status
from sae.specs.registry import SPECS
from sae.workspace.files import HOST
from sae.workspace.paths import Workspace

log = logging.getLogger(__name__)

COMMAND_LINE = "the command line"
STOPPED = "stopped on the command line; it can be resumed from its last checkpoint"
_SETTLE_S = 60  # a folder without a status is left alone this long, because its program may be starting


def adopt_folders(db: Session, workspace: Workspace, launcher: LocalLauncher) -> list[str]:
    """Add a row for every unknown run folder and return their ids.  An unreadable folder is skipped."""
    present = {path.parent.name: path for path in workspace.root.glob("runs/*/spec.json")}
    unknown = present.keys() - set(db.scalars(select(Run.id)))
    adopted = []
    for run_id in sorted(unknown):
        folder = RunFolder(present[run_id].parent)
        try:
            kind, spec = folder.spec()
            begun = present[run_id].stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            continue
        status = folder.status()
        if kind not in SPECS or not isinstance(spec, dict) or (status is None and abs(time.time() - begun) < _SETTLE_S):
            continue
        db.add(Run(
            id=run_id, kind=kind, spec=spec, requested_by=COMMAND_LINE,
            created=min(begun, status.started or begun) if status else begun,  # a copied folder's files are newer
            **_standing(status, launcher)))
        adopted.append(run_id)
    db.commit()
    if adopted:
        log.info("adopted run folders from the command line: %s", ", ".join(adopted))
    return adopted


def _standing(status: Status | None, launcher: LocalLauncher) -> dict[str, Any]:
    if status is None:
        return {"state": "cancelled", "error": STOPPED}
    known: dict[str, Any] = {
        "started": status.started, "launched": status.started, "progress": status.overall,
        "sae_id": status.result.get("sae")}
    if status.state in FINAL_STATES:
        return known | {"state": status.state, "error": status.error, "finished": status.finished}
    if status.host not in ("", HOST):  # its process id means nothing here
        fresh = abs(time.time() - status.heartbeat) < _SETTLE_S
        return known | ({"state": "running", "launcher": ELSEWHERE, "ref": status.host} if fresh else
                        {"state": "cancelled", "error": STOPPED, "finished": status.heartbeat})
    handle = launcher.handle_of(status.pid) if status.pid else None
    if handle is None:
        return known | {"state": "cancelled", "error": STOPPED, "finished": status.heartbeat}
    return known | {"state": "running", "ref": handle.ref, "ref_mark": handle.mark}
