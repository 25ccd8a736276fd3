"""The SAEs of the workspace, mirrored in the database.

The folders decide: `sync()` finds SAEs that were made on the command line, copied in or deleted.  It lists the
folders and updates only the rows that changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from app.db.engine import SessionFactory
from app.db.tables import Sae
from app.library.explanation_mirror import ExplanationMirror
from app.library.sae_notes import NOTES, read_notes
from sae.errors import UserError
from sae.workspace.paths import Workspace

log = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, tuple[str, ...]], ...]


class Catalog:
    """The SAEs and the newest finished build of each."""

    def __init__(
        self, workspace: Workspace, sessions: SessionFactory, changes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Make a catalog.  It caches the rows, which every page needs, until `changes()` (`Changes`) differs."""
        self.workspace, self.sessions, self._changes = workspace, sessions, changes
        self._seen: Signature | None = None
        self._explanations = ExplanationMirror(workspace, sessions)
        self._kept: tuple[int | None, dict[str, Sae]] = (None, {})  # replaced as a whole, so threads need no lock

    def list_saes(self) -> list[Sae]:
        """Return every SAE: the newest first, hidden ones after all others, so that no page starts with one."""
        return list(self._saes().values())

    def get_sae(self, sae_id: str) -> Sae | None:
        """Return the SAE with this id (`<model>/<name>`), or None."""
        return self._saes().get(sae_id)

    def _saes(self) -> dict[str, Sae]:
        change, (kept_at, saes) = self._changes(), self._kept
        if change is None or change != kept_at:
            with self.sessions() as db:
                rows = db.scalars(select(Sae).order_by(Sae.created.desc(), Sae.id))
                saes = {row.id: row for row in sorted(rows, key=lambda row: row.hidden)}
            self._kept = (change, saes)
        return saes

    def sync(self) -> None:
        """Update the table from the folders.  A damaged SAE is logged and skipped."""
        self._seen = self._signature()
        with self.sessions() as db:
            known = {row.id: row for row in db.scalars(select(Sae))}
            for sae_id, _, builds in self._seen:
                values = self._read(sae_id)
                if values is None:
                    continue
                row = known.pop(sae_id, None)
                if row is None:
                    row = Sae(id=sae_id)
                    db.add(row)
                for name, value in (values | {"current_build": builds[-1] if builds else None}).items():
                    if getattr(row, name) != value:
                        setattr(row, name, value)
            for row in known.values():
                db.delete(row)
            db.commit()
        self._explanations.sync()

    def sync_if_changed(self) -> bool:
        """Call `sync()` if an SAE, a build or explanations changed, and return whether they did."""
        if self._signature() == self._seen:
            return self._explanations.sync()
        self.sync()
        return True

    def _signature(self) -> Signature:
        entries = []
        for sae_id in self.workspace.sae_ids():
            try:
                folder = self.workspace.sae(sae_id)
                changed = (folder / "sae.json").stat().st_mtime_ns
                notes = (folder / NOTES).stat().st_mtime_ns if (folder / NOTES).exists() else 0
                entries.append((sae_id, changed + notes, tuple(self.workspace.build_ids(sae_id))))
            except (UserError, FileNotFoundError):  # not a valid name, or deleted in the meantime
                continue
        return tuple(entries)

    def _read(self, sae_id: str) -> dict[str, Any] | None:
        path = self.workspace.sae(sae_id) / "sae.json"
        model, _, name = sae_id.partition("/")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise TypeError("not a JSON object")
            k = config.get("k")
            return {
                "model": model, "name": name, "architecture": str(config["architecture"]),
                "n_latents": int(config["n_latents"]), "k": None if k is None else int(k),
                "layer": int(config["site"]["layer"]), "hook": str(config["site"]["hook"]),
                "config": config | {"notes": read_notes(path.parent)},
                "created": float(config.get("created") or path.stat().st_mtime),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is skipped: %s: %s", path, type(error).__name__, error)
            return None
