"""The SAEs of the workspace, mirrored in the database.

The folders decide: `sync()` finds SAEs that were made on the command line, copied in or deleted.  It lists the
folders and updates only the rows that changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.db.clock import one_at_a_time
from app.db.engine import SessionFactory
from app.db.tables import Sae
from app.library.evaluation_mirror import EvaluationMirror
from app.library.explanation_mirror import ExplanationMirror
from app.library.sae_notes import NOTES, read_notes
from sae.autoencoder.config_check import load_config, weights_fault
from sae.errors import UserError
from sae.workspace.paths import Workspace

log = logging.getLogger(__name__)

Signature = tuple[tuple[str, tuple[tuple[int, int], ...], tuple[str, ...]], ...]


class Catalog:
    """The SAEs and the newest finished build of each."""

    def __init__(
        self, workspace: Workspace, sessions: SessionFactory, changes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Make a catalog.  It caches the rows, which every page needs, until `changes()` (`Changes`) differs."""
        self.workspace, self.sessions, self._changes = workspace, sessions, changes
        self._seen: Signature | None = None
        self._mirrors = (ExplanationMirror(workspace, sessions), EvaluationMirror(workspace, sessions))
        self._kept: tuple[int | None, dict[str, Sae]] = (None, {})  # replaced as a whole, so threads need no lock

    def list_saes(self) -> list[Sae]:
        """Return every SAE that can be read: the newest first, hidden ones after all others, so that no page starts
        with one.
        """
        return [sae for sae in self._saes().values() if not sae.damage]

    def get_sae(self, sae_id: str) -> Sae | None:
        """Return the SAE with this id (`<model>/<name>`), or None if there is none or it is damaged."""
        sae = self._saes().get(sae_id)
        return None if sae is None or sae.damage else sae

    def renamed(self, sae_id: str) -> str | None:
        """Return the id of the SAE that had the id `sae_id` before it was renamed; None if there is none."""
        model, _, name = sae_id.partition("/")
        return next((sae.id for sae in self.list_saes()
                     if sae.model == model and name in (sae.config.get("former_names") or ())), None)

    def present_id(self, sae_id: str) -> str:
        """Return the id that the SAE has now, for an id that may be a former one; any other text stays as it is."""
        return sae_id if self.get_sae(sae_id) is not None else self.renamed(sae_id) or sae_id

    def any_renamed(self) -> bool:
        """Return whether any SAE has a former name."""
        return any(sae.config.get("former_names") for sae in self.list_saes())

    def damaged(self) -> dict[str, str]:
        """Return why an SAE cannot be used, or not computed with, by the id of the SAE."""
        return {sae.id: fault for sae in self._saes().values() if (fault := sae.damage or sae.weights_fault)}

    def _saes(self) -> dict[str, Sae]:
        change, (kept_at, saes) = self._changes(), self._kept
        if change is None or change != kept_at:
            with self.sessions() as db:
                rows = db.scalars(select(Sae).order_by(Sae.created.desc(), Sae.id))
                saes = {row.id: row for row in sorted(rows, key=lambda row: row.hidden)}
            self._kept = (change, saes)
        return saes

    def sync(self) -> None:
        """Update the table from the folders.  A damaged SAE is logged and gets a row that says what is wrong."""
        self._seen = self._signature()
        with self.sessions() as db:
            one_at_a_time(db, "catalog")
            known = {row.id: row for row in db.scalars(select(Sae))}
            for sae_id, _, builds in self._seen:
                values = self._read(sae_id)
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
        self._sync_results()

    def sync_if_changed(self) -> bool:
        """Call `sync()` if an SAE, a build, explanations or measures changed, and return whether they did."""
        if self._signature() == self._seen:
            return self._sync_results()
        self.sync()
        return True

    def _sync_results(self) -> bool:
        """Mirror the files of results that changed, and return whether any did."""
        changed = [mirror.sync() for mirror in self._mirrors]
        return any(changed)

    def _signature(self) -> Signature:
        entries = []
        for sae_id in self.workspace.sae_ids():
            try:
                folder = self.workspace.sae(sae_id)
                files = tuple(_mark(folder / name) for name in ("sae.json", "sae.safetensors", NOTES))
                entries.append((sae_id, files, tuple(self.workspace.build_ids(sae_id))))
            except (UserError, OSError):  # not a valid name, or not readable
                continue
        return tuple(entries)

    def _read(self, sae_id: str) -> dict[str, Any]:
        folder = self.workspace.sae(sae_id)
        model, _, name = sae_id.partition("/")
        notes = read_notes(folder)
        try:
            config = load_config(folder / "sae.json")
        except ValueError as error:
            log.warning("%s is damaged: %s", sae_id, error)
            return {
                "model": model, "name": name, "architecture": "", "n_latents": 0, "k": None, "layer": 0, "hook": "",
                "config": {"notes": notes | {"damage": str(error)}}, "created": _mark(folder / "sae.json")[0] / 1e9}
        if fault := weights_fault(folder):
            log.warning("%s can only be browsed: %s", sae_id, fault)
            notes |= {"weights_fault": fault}
        return {
            "model": model, "name": name, "architecture": config["architecture"], "n_latents": config["n_latents"],
            "k": config.get("k"), "layer": config["site"]["layer"], "hook": config["site"]["hook"],
            "config": config | {"notes": notes},
            "created": float(config.get("created") or _mark(folder / "sae.json")[0] / 1e9),
        }


def _mark(path: Path) -> tuple[int, int]:
    """Return a file's time of change in ns and its size, or zeros if it is missing."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
