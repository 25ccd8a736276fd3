"""Runs that work on parts of another run at the same time.  Their parent waits until all of them have succeeded.

Only a run on a cluster has them.  A part that fails, or that somebody cancels, ends its parent too; resuming the parent
resumes its parts.
"""

from __future__ import annotations

import time

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import Run
from sae.specs.registry import n_parts, part_kind


def parts_of(run: Run) -> list[Run]:
    """Return a new queued run for each part of a run that a cluster does in several."""
    n = n_parts(run.kind, run.spec)
    if n == 1 or run.launcher == "local":
        return []
    return [
        Run(id=f"{run.id}-part-{part}", kind=part_kind(run.kind), spec={"run": run.id, "part": part}, state="queued",
            parent=run.id, requested_by=run.requested_by, sae_id=run.sae_id, launcher=run.launcher,
            resources=run.resources)
        for part in range(1, n + 1)]


def of(db: Session, run_id: str) -> list[Run]:
    """Return the runs that do a run's parts, in their order."""
    return list(db.scalars(select(Run).where(Run.parent == run_id).order_by(Run.created, Run.id)))


def ids_of(db: Session, run_id: str) -> list[str]:
    """Return the ids of a run's parts."""
    return list(db.scalars(select(Run.id).where(Run.parent == run_id).order_by(Run.created, Run.id)))


def complete(db: Session, run: Run) -> bool:
    """Return whether a run has no part that has not succeeded."""
    return db.scalar(select(Run.id).where(Run.parent == run.id, Run.state != "succeeded").limit(1)) is None


def give_up(db: Session) -> None:
    """End the queued runs of which a part has failed or was cancelled."""
    ended = db.scalars(select(Run).where(Run.parent.is_not(None), Run.state.in_(("failed", "cancelled")))).all()
    for part in ended:
        db.execute(update(Run).where(Run.id == part.parent, Run.state == "queued").values(
            state=part.state, finished=time.time(), error=f"{part.id}: {part.error}" if part.error else None))
    if ended:
        db.commit()
