"""The files of explanations in the SAEs' folders, mirrored into the database.

Runs and imports append to the files.  Only the bytes that were added since the last time are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.tables import ExplanationFile, ExplanationScore, LatentExplanation
from sae.errors import UserError
from sae.explain import results
from sae.explain.records import Explanation, Score
from sae.workspace.paths import Workspace


class ExplanationMirror:
    """The mirror of a workspace."""

    def __init__(self, workspace: Workspace, sessions: SessionFactory) -> None:
        self._workspace, self._sessions = workspace, sessions
        self._seen: dict[str, tuple[int, int]] = {}  # modification time and size, by SAE

    def sync(self) -> bool:
        """Mirror what was added to the files; return whether anything was."""
        changed = {sae_id: mark for sae_id in self._workspace.sae_ids()
                   if (mark := self._mark(sae_id)) is not None and self._seen.get(sae_id) != mark}
        for sae_id, mark in changed.items():
            with self._sessions() as db:
                mirror(db, self._workspace, sae_id)
            self._seen[sae_id] = mark
        return bool(changed)

    def _mark(self, sae_id: str) -> tuple[int, int] | None:
        try:
            stat = results.results_path(self._workspace.sae(sae_id)).stat()
        except (OSError, UserError):  # no file, or no valid name
            return None
        return stat.st_mtime_ns, stat.st_size


def mirror(db: Session, workspace: Workspace, sae_id: str) -> None:
    """Add what was appended to the file of one SAE since the last time, and commit."""
    folder = workspace.sae(sae_id)
    mark = db.get(ExplanationFile, sae_id)
    if mark is not None and mark.n_bytes > results.results_path(folder).stat().st_size:  # another file
        for table in (LatentExplanation, ExplanationScore):
            ids = select(LatentExplanation.id).where(
                LatentExplanation.sae_id == sae_id, LatentExplanation.in_file.is_(False))
            column = table.id if table is LatentExplanation else ExplanationScore.explanation_id
            db.execute(delete(table).where(table.sae_id == sae_id, column.not_in(ids)))
        mark.n_bytes = 0
    records, n_bytes = results.read(folder, mark.n_bytes if mark else 0)
    texts = {r.id: _explanation(r) for r in records if isinstance(r, Explanation)}  # the last one of each id
    _store(db, sae_id, LatentExplanation, texts.values())
    _store(db, sae_id, ExplanationScore, {r.id: _score(r) for r in records if isinstance(r, Score)}.values())
    if mark is None:
        db.add(ExplanationFile(sae_id=sae_id, n_bytes=n_bytes))
    else:
        mark.n_bytes = n_bytes
    db.commit()


def write_people(db: Session, workspace: Workspace, sae_id: str) -> None:
    """Write the explanations of people to the SAE's folder, where a run that scores explanations reads them."""
    rows = db.scalars(select(LatentExplanation).where(
        LatentExplanation.sae_id == sae_id, LatentExplanation.in_file.is_(False)).order_by(LatentExplanation.latent))
    results.write_people(workspace.sae(sae_id), [
        Explanation(row.latent, row.text, row.kind, row.author, row.method, created=row.created, id=row.id)
        for row in rows])


def _store(
    db: Session, sae_id: str, table: type[LatentExplanation] | type[ExplanationScore], rows: Iterable[dict[str, Any]],
) -> None:
    """Insert the rows that are new, and update the others; whether one is chosen stays as it is.

    All rows go through one prepared statement, which is many times as fast as one statement for each: a run may have
    made tens of thousands.
    """
    fixed = {"chosen": False, "in_file": True} if table is LatentExplanation else {}
    values = [{"sae_id": sae_id, **fixed, **row} for row in rows]
    if not values:
        return
    make = postgresql.insert if db.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = make(table.__table__)  # type: ignore[arg-type]
    kept = {"sae_id", "id", *fixed}
    db.execute(statement.on_conflict_do_update(
        index_elements=["sae_id", "id"],
        set_={name: statement.excluded[name] for name in values[0] if name not in kept}), values)


def _explanation(record: Explanation) -> dict[str, Any]:
    limits = {"text": 2000, "kind": 10, "author": 100, "method": 100, "model": 200, "prompt_version": 100, "run": 80}
    return {"id": record.id, "latent": record.latent, "created": float(record.created),
            **{name: str(getattr(record, name)).replace("\0", " ")[:limit] for name, limit in limits.items()}}


def _score(record: Score) -> dict[str, Any]:
    return {"id": record.id, "explanation_id": record.explanation[:40], "latent": record.latent,
            "scorer": record.scorer[:40], "model": record.model[:200], "value": float(record.value), "low": record.low,
            "high": record.high, "f1": record.f1, "n": int(record.n), "created": float(record.created),
            "details": record.details}
