"""The results of measures in the SAEs' folders, mirrored into the database for tables of many SAEs."""

from __future__ import annotations

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from app.db.clock import one_at_a_time
from app.db.engine import SessionFactory
from app.db.tables import Evaluation
from sae.errors import UserError
from sae.evaluation.results import FOLDER, StoredResult, read_results
from sae.workspace.paths import Workspace

Mark = tuple[tuple[str, int, int], ...]
_UNKNOWN: Mark = (("", 0, 0),)


class EvaluationMirror:
    """The mirror of a workspace."""

    def __init__(self, workspace: Workspace, sessions: SessionFactory) -> None:
        self._workspace, self._sessions = workspace, sessions
        self._seen: dict[str, Mark] | None = None  # names, modification times and sizes, by SAE

    def sync(self) -> bool:
        """Mirror the SAEs whose files changed; return whether there were any."""
        marks = {sae_id: self._mark(sae_id) for sae_id in self._workspace.sae_ids()}
        seen = self._in_database() if self._seen is None else self._seen
        changed = [sae_id for sae_id, mark in marks.items() if seen.get(sae_id, ()) != mark]
        for sae_id in changed:
            with self._sessions() as db:
                one_at_a_time(db, "evaluations")
                mirror(db, self._workspace, sae_id)
        self._seen = marks
        return bool(changed)

    def _in_database(self) -> dict[str, Mark]:
        """Return the SAEs that have rows, as changed."""
        with self._sessions() as db:
            return dict.fromkeys(db.scalars(select(Evaluation.sae_id).distinct()), _UNKNOWN)

    def _mark(self, sae_id: str) -> Mark:
        try:
            files = sorted((self._workspace.sae(sae_id) / FOLDER).glob("*.json"))
            return tuple((file.name, stat.st_mtime_ns, stat.st_size) for file in files if (stat := file.stat()))
        except (OSError, UserError):  # a file that goes away, or no valid name
            return ()


def mirror(db: Session, workspace: Workspace, sae_id: str) -> None:
    """Replace the rows of one SAE by the content of its files, and commit."""
    db.execute(delete(Evaluation).where(Evaluation.sae_id == sae_id))
    rows = [row for result in read_results(workspace.sae(sae_id)) for row in _rows(sae_id, result)]
    if rows:
        db.execute(insert(Evaluation), rows)
    db.commit()


def _rows(sae_id: str, result: StoredResult) -> list[dict[str, object]]:
    by_key = {value.key[:80]: value for value in result.values if value.value is not None}
    return [
        {"sae_id": sae_id, "measure": result.measure, "key": key, "value": value.value, "low": value.low,
         "high": value.high, "n": value.n, "definition": value.definition, "run": result.run[:80],
         "created": float(result.created)} for key, value in by_key.items()]
