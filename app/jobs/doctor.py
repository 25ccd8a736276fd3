"""Faults of a whole workspace for `saescope doctor`: those of its files, and those of its database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.engine import make_engine, make_session_factory
from app.db.start_faults import check_pages, named_faults
from app.db.tables import Label, Run
from app.jobs.launchers.local import start_mark
from app.jobs.queue import ACTIVE, WAITING_OR_ACTIVE
from app.settings import Settings
from sae.errors import UserError
from sae.runs.doctor import Finding, examine
from sae.workspace.disk import RESTORING
from sae.workspace.paths import Workspace

_LOW_BYTES = 1_000_000_000  # less free space than this is a finding


def examine_all(settings: Settings, deep: bool = False) -> Iterator[Finding]:
    """Yield the faults of the disk, the files and the database."""
    home = settings.home
    if not home.is_dir():
        yield Finding("missing", f"{home}", "there is no workspace", "Set SAESCOPE_HOME, or run: saescope serve")
        return
    if (home / RESTORING).exists():
        yield Finding("damaged", f"{home}", "it is only partly restored", "Run 'saescope restore' again.")
    if (free := shutil.disk_usage(home).free) < _LOW_BYTES:
        yield Finding("stale", "the disk", f"only {free / 1e6:,.0f} MB are free", "Run: saescope gc")
    yield from examine(settings.workspace, deep)
    yield from _database(settings)


def busy_runs(settings: Settings) -> set[str]:
    """Return the ids of queued and active runs, whose files must stay; none if there is no database yet."""
    if not settings.database_url and not settings.workspace.database.exists():
        return set()
    engine = make_engine(settings.url)
    try:
        with named_faults(engine), make_session_factory(engine)() as db:
            return set(db.scalars(select(Run.id).where(Run.state.in_(WAITING_OR_ACTIVE))))
    finally:
        engine.dispose()


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url and not settings.workspace.database.exists():
        return  # it is made at the next start
    engine = make_engine(settings.url)
    try:
        with named_faults(engine):
            check_pages(engine)
            with make_session_factory(engine)() as db:
                findings = [*_rows(db, settings.workspace)]
    except UserError as error:
        findings = [Finding("damaged", "the database", str(error), 
                            "Nothing else in it was examined.")]
    finally:
        engine.dispose()
    yield from findings


def _rows(db: Session, workspace: Workspace) -> Iterator[Finding]:
    for run in db.scalars(select(Run).where(Run.state.in_(ACTIVE))):
        if run.launcher == "local" and run.ref is not None and start_mark(int(run.ref)) != run.ref_mark:
            yield Finding("stale", f"run {run.id}", "the database calls it active, but its process is gone",
                          "A running server queues it again within a second.")
    for run_id in db.scalars(select(Run.id)):
        if not workspace.run(run_id).is_dir():
            yield Finding("missing", f"run {run_id}", "its folder is gone", "Delete it on its page, or restore runs/.")
    here = set(workspace.sae_ids())
    for sae_id in db.scalars(select(Label.sae_id).distinct()):
        if sae_id not in here:
            yield Finding("orphaned", f"labels of {sae_id}", "this SAE is not here",
                          "They are kept, and apply again when the SAE is back.")
