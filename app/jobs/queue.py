"""The queue of runs: the rows of `runs`, and the guarded transitions between their states.

    queued → starting → running → succeeded | failed | cancelled | lost → queued

Each transition is one UPDATE that names the states it may start from, so a double click, a second
supervisor or a late transition changes nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.tables import Run
from app.jobs import parts
from app.jobs.folders import reopen
from app.jobs.launchers.elsewhere import ELSEWHERE
from app.jobs.places import Place
from sae.runs.folder import FINAL_STATES, Kind, RunFolder
from sae.workspace.paths import Workspace

QUEUED = frozenset({"queued"})
ACTIVE = frozenset({"starting", "running"})
WAITING_OR_ACTIVE = QUEUED | ACTIVE
RESUMABLE = frozenset({"failed", "cancelled", "lost"})
FINISHED = FINAL_STATES | {"lost"}


def transition(db: Session, run_id: str, before: Collection[str], **values: Any) -> bool:
    """Set `values` if the run's state is one of `before`, commit, and return whether it was."""
    done = db.execute(update(Run).where(Run.id == run_id, Run.state.in_(before)).values(**values))
    db.commit()
    return bool(done.rowcount == 1)  # type: ignore[attr-defined]


def enqueue(
    db: Session, workspace: Workspace, kind: Kind, spec: dict[str, Any], requested_by: str = "", run_id: str = "",
    form_key: str = "", place: Place | None = None,
) -> Run:
    """Queue a new run, write its folder with a fixed `spec.json`, and return it.

    `place` says where it is executed (default: on this machine).  On a cluster, a run in several parts also gets a
    run for each part.  `run_id` names a run whose folder already holds files.  `form_key` makes a form that is sent
    twice (a double click) start one run: the second call returns the run of the first.
    """
    if run := started_by(db, form_key):
        return run
    run = Run(
        id=run_id or workspace.new_run_id(kind), kind=kind, spec=spec, state="queued", requested_by=requested_by,
        sae_id=spec.get("sae"), form_key=form_key or None, **(place or Place()).columns())
    db.add(run)
    db.add_all(parts.parts_of(run))
    try:
        db.commit()  # before the folder, because a folder without a row looks like a run of the command line
    except IntegrityError:  # the same form came twice at the same moment
        db.rollback()
        first = started_by(db, form_key)
        if first is None:
            raise
        return first
    RunFolder(workspace.run(run.id)).create(kind, spec)
    return run


def started_by(db: Session, form_key: str) -> Run | None:
    """Return the run that a form has already started, or None."""
    return db.scalar(select(Run).where(Run.form_key == form_key)) if form_key else None


def claim(db: Session, fits: Callable[[Run], bool] = lambda run: True) -> Run | None:
    """Set the oldest queued run that `fits` to `starting` and return it, or None if there is none.

    A run in parts waits until all of them have succeeded.
    """
    for run in db.scalars(select(Run).where(Run.state == "queued").order_by(Run.created, Run.id)).all():
        if parts.complete(db, run) and fits(run) and transition(
            db, run.id, QUEUED, state="starting", launched=time.time(), attempt=run.attempt + 1, ref=None,
            ref_mark=None, waiting_for=None, finished=None, error=None,
        ):
            return db.get_one(Run, run.id, populate_existing=True)
    return None


def active(db: Session) -> list[Run]:
    """Return the runs that are starting or running, oldest first."""
    return list(db.scalars(
        select(Run).where(Run.state.in_(ACTIVE)).order_by(Run.created).execution_options(populate_existing=True)))


def cancel(db: Session, workspace: Workspace, run_id: str) -> bool:
    """Cancel a queued run at once and an active one at its next safe point; return whether the run was either."""
    now = time.time()
    for part in parts.ids_of(db, run_id):
        cancel(db, workspace, part)
    if transition(db, run_id, QUEUED, state="cancelled", finished=now, cancel_asked=now):
        return True
    # The database comes first, so that a process that ends between the two steps counts as cancelled, not as lost.
    if not transition(db, run_id, ACTIVE, cancel_asked=now):
        return False
    folder = RunFolder(workspace.run(run_id))
    if folder.path.is_dir():
        folder.request_cancel()
    return True


def resume(db: Session, workspace: Workspace, run_id: str, requested_by: str = "") -> bool:
    """Queue a stopped run again, to resume from its last checkpoint; return whether its state allowed it."""
    state = db.scalar(select(Run.state).where(Run.id == run_id))
    if state not in RESUMABLE:
        return False
    for part in parts.ids_of(db, run_id):
        resume(db, workspace, part, requested_by)
    reopen(RunFolder(workspace.run(run_id)))  # before it is queued, so that its process does not find it ended
    launcher = db.scalar(select(Run.launcher).where(Run.id == run_id))
    return transition(
        db, run_id, RESUMABLE, state="queued", cancel_asked=None, finished=None, error=None, requeues=0,
        launcher="local" if launcher == ELSEWHERE else launcher, requested_by=requested_by)


def delete(db: Session, workspace: Workspace, run_id: str) -> bool:
    """Delete a run without a process and its folder, but not its SAE and builds; return whether it could be deleted."""
    run = db.get(Run, run_id, populate_existing=True)
    # The guarded transition keeps the supervisor from starting the run while its folder is deleted.
    if run is None or not transition(db, run_id, QUEUED | FINISHED, state="cancelled"):
        return False
    for part in parts.ids_of(db, run_id):
        delete(db, workspace, part)
    shutil.rmtree(workspace.run(run_id), ignore_errors=True)
    db.delete(run)
    db.commit()
    return True


def newest(db: Session, limit: int = 100) -> list[Run]:
    """Return the latest runs, newest first."""
    return list(db.scalars(select(Run).order_by(Run.created.desc(), Run.id.desc()).limit(limit)))


def recover(db: Session) -> int:
    """Queue the runs that a killed server had marked lost but not queued yet, and return their number."""
    done = db.execute(update(Run).where(Run.state == "lost").values(state="queued"))
    db.commit()
    return int(done.rowcount)  # type: ignore[attr-defined]


def waiting(db: Session) -> list[str]:
    """Return the ids of the queued runs, the next one first."""
    return list(db.scalars(select(Run.id).where(Run.state == "queued").order_by(Run.created, Run.id)))
