"""Deletion and renaming of an SAE: its files, and its rows in the database."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db.people_tables import Comment, ListMember, Star
from app.db.tables import (
    EarlierLabel,
    Evaluation,
    ExplanationFile,
    ExplanationScore,
    Inspection,
    Label,
    LatentEffect,
    LatentExplanation,
    Run,
    SteerRun,
)
from app.jobs.queue import WAITING_OR_ACTIVE
from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.runs.manage import SaeFiles, delete_sae_files, files_of, rename_sae_files
from sae.workspace.paths import Workspace

_BY_SAE = (Label, EarlierLabel, LatentEffect, LatentExplanation, ExplanationScore, ExplanationFile, Star, Comment,
           ListMember, Evaluation)


@dataclass(frozen=True)
class Belongings:
    """The files and rows that are deleted with an SAE, and the runs that must end before."""

    files: SaeFiles
    labels: int  # latents with a label, a note or tags
    effects: int  # latents with measured effects
    runs: list[Run]


def belongings(db: Session, workspace: Workspace, sae_id: str) -> Belongings:
    """Count what belongs to an SAE.  Raises UserError (field `sae`) if there is no such SAE."""
    files = files_of(workspace, sae_id)
    labels, effects = (
        db.scalar(select(func.count()).select_from(table).where(table.sae_id == sae_id)) or 0
        for table in (Label, LatentEffect))
    return Belongings(files, labels, effects, busy_runs(db, workspace, sae_id))


def busy_runs(db: Session, workspace: Workspace, sae_id: str) -> list[Run]:
    """Return the queued and active runs that make or read an SAE."""
    runs = db.scalars(select(Run).where(Run.state.in_(WAITING_OR_ACTIVE)).order_by(Run.created))
    return [run for run in runs if sae_id in _sae_ids(run, workspace)]


def delete_sae(db: Session, workspace: Workspace, sae_id: str) -> None:
    """Delete an SAE with its builds, comparisons, labels and measured effects.

    Stored steering runs and inspections stay, as records of past results.  Raises UserError (field `sae`) if there is
    no such SAE, or a run is working with it.
    """
    _refuse_busy(db, workspace, sae_id)
    delete_sae_files(workspace, sae_id)
    for table in _BY_SAE:
        db.execute(delete(table).where(table.sae_id == sae_id))
    db.commit()


def rename_sae(db: Session, workspace: Workspace, sae_id: str, name: str) -> str:
    """Give an SAE another name under its model, with everything that belongs to it, and return its new id.

    Raises UserError: field `sae` if there is no such SAE or a run is working with it, field `name` if the name is not
    usable or not free.
    """
    _refuse_busy(db, workspace, sae_id)
    new_id = rename_sae_files(workspace, sae_id, name)
    for table in _BY_SAE:
        db.execute(delete(table).where(table.sae_id == new_id))  # rows of a deleted SAE that had this name
        db.execute(update(table).where(table.sae_id == sae_id).values(sae_id=new_id))
    for row in [*db.scalars(select(Run)), *db.scalars(select(SteerRun)), *db.scalars(select(Inspection))]:
        for column in ("sae_id", "spec", "request"):
            old = getattr(row, column, None)
            if (new := _renamed(old, sae_id, new_id)) != old:
                setattr(row, column, new)
    db.commit()
    return new_id


def _refuse_busy(db: Session, workspace: Workspace, sae_id: str) -> None:
    if runs := busy_runs(db, workspace, sae_id):
        raise UserError(
            f"sae: the run {runs[0].id} is working with {sae_id}; wait until it has ended, or cancel it first", "sae")


def _sae_ids(run: Run, workspace: Workspace) -> Collection[str]:
    """Return the SAEs that a run reads by its settings, and those that it makes by the note in its folder."""
    asked = {str(run.spec.get(name)) for name in ("sae", "a", "b")}
    note = RunFolder(workspace.run(run.id)).path / "sae_id.txt"
    return asked | set(note.read_text(encoding="utf-8").split() if note.is_file() else ())


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return a JSON value in which every text and every key that is `old` is `new`."""
    if isinstance(value, dict):
        return {_renamed(key, old, new): _renamed(one, old, new) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, old, new) for one in value]
    return new if value == old else value
