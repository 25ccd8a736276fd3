"""Files of a workspace that nothing needs any more, for `saescope gc`.

Only what can be made again, or what an end left behind, is garbage: checkpoints of runs that ended long ago, builds
that a newer one replaces, corpora that nothing refers to, kept activations that no run has read for long, and
unfinished files of processes that are gone.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psutil

from sae.autoencoder.config_check import load_config
from sae.errors import UserError
from sae.runs.folder import FINAL_STATES, RunFolder
from sae.store.connection import connect
from sae.store.damage import check_build_size
from sae.store.page_file import page_file_path
from sae.workspace.files import HOST
from sae.workspace.paths import Workspace

KINDS = ("checkpoint", "build", "corpus", "activations", "staging")
_DAY_S = 86_400.0
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.-]+)-(?P<pid>\d+)\.tmp")


@dataclass(frozen=True)
class Garbage:
    """Files that can go: what they are, why nothing needs them, and their size in bytes."""

    kind: str
    paths: tuple[Path, ...]
    reason: str
    n_bytes: int

    def remove(self) -> None:
        """Delete the files.  What is gone already is no error."""
        for path in self.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def find_garbage(workspace: Workspace, days: float) -> list[Garbage]:
    """Return what can be deleted.

    Checkpoints, corpora and kept activations count only if they are older than `days` days.
    """
    return [*_checkpoints(workspace, days), *_builds(workspace), *_corpora(workspace, days),
            *_activations(workspace, days), *unfinished(workspace)]


def unfinished(workspace: Workspace) -> Iterator[Garbage]:
    """Yield the temporary files of processes that are gone, abandoned uploads, and what was being deleted."""
    for path in sorted(workspace.root.rglob(".*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or (path.exists() and not _abandoned(path, match["host"], int(match["pid"]))):
            continue
        yield _garbage("staging", "the process that wrote it is gone", path)
    for path in sorted((workspace.root / "uploads").glob("*")):
        if _age_s(path) > _DAY_S:
            yield _garbage("staging", "an upload that was never used", path)
    if (workspace.root / "trash").is_dir():
        yield _garbage("staging", "the rest of an interrupted deletion", workspace.root / "trash")


def _checkpoints(workspace: Workspace, days: float) -> Iterator[Garbage]:
    for path in sorted(workspace.root.glob("runs/*/ckpt")):
        status = RunFolder(path.parent).status()
        if status is None or status.state not in FINAL_STATES or not any(path.iterdir()):
            continue
        old = time.time() - (status.finished or status.heartbeat) > days * _DAY_S
        if status.state == "succeeded" or old:
            why = "has succeeded" if status.state == "succeeded" else f"was {status.state} more than {days:g} days ago"
            yield _garbage("checkpoint", f"the run {path.parent.name} {why}", path)


def _builds(workspace: Workspace) -> Iterator[Garbage]:
    for sae_id in _valid_ids(workspace):
        good = [build for build in workspace.build_ids(sae_id) if _is_good(workspace.build(sae_id, build))]
        for build_id in good[:-1]:
            path = workspace.build(sae_id, build_id)
            yield _garbage("build", f"{good[-1]} replaces it", path, page_file_path(path))


def _corpora(workspace: Workspace, days: float) -> Iterator[Garbage]:
    used = set(_used_corpora(workspace))
    for path in sorted((workspace.root / "corpora").glob("*")):
        if not path.name.startswith(".") and path.is_dir() and path.name not in used and _age_s(path) > days * _DAY_S:
            yield _garbage("corpus", "nothing refers to it", path)


def _activations(workspace: Workspace, days: float) -> Iterator[Garbage]:
    used = _last_use(workspace)
    for path in sorted((workspace.root / "activations").glob("*")):
        since = max(path.stat().st_mtime, used.get(path.name, 0.0))
        if path.is_dir() and not path.name.startswith(".") and time.time() - since > days * _DAY_S:
            why = (f"no run has read them for {days:g} days" if (path / "meta.json").exists()
                   else "the run that kept them did not finish")
            yield _garbage("activations", why, path)


def _last_use(workspace: Workspace) -> dict[str, float]:
    """Return when each kept activations were last written or read by a run; a run that has not ended uses them now."""
    found: dict[str, float] = {}
    for path in workspace.root.glob("runs/*/spec.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))["spec"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        status = RunFolder(path.parent).status()
        ended = status is not None and status.state in FINAL_STATES
        when = (status.finished or status.heartbeat) if status is not None and ended else time.time()
        for name in (values.get("activations"), values.get("name"), path.parent.name.partition("-")[2]):
            if isinstance(name, str):
                found[name] = max(when, found.get(name, 0.0))
    return found


def _used_corpora(workspace: Workspace) -> Iterator[str]:
    for path in workspace.root.glob("activations/*/plan.json"):
        with suppress(OSError, ValueError, AttributeError):
            yield str(json.loads(path.read_text(encoding="utf-8")).get("corpus", ""))
    for sae_id in _valid_ids(workspace):
        try:
            training = load_config(workspace.sae(sae_id) / "sae.json").get("training") or {}
            yield str(training.get("corpus", ""))
        except ValueError:
            continue
    for path in workspace.root.glob("builds/*/*/*.duckdb"):
        try:
            with connect(path) as con:
                rows = con.execute("SELECT value FROM meta WHERE key = 'corpus'").fetchall()
            yield from (str(json.loads(value)) for (value,) in rows)
        except (duckdb.Error, ValueError):
            continue


def _valid_ids(workspace: Workspace) -> Iterator[str]:
    """Yield the ids of SAEs, without folders whose names no SAE can have."""
    for sae_id in workspace.sae_ids():
        try:
            workspace.sae(sae_id)
        except UserError:
            continue
        yield sae_id


def _is_good(path: Path) -> bool:
    try:
        check_build_size(path)
    except UserError:
        return False
    return True


def _abandoned(path: Path, host: str, pid: int) -> bool:
    return not psutil.pid_exists(pid) if host == HOST else _age_s(path) > _DAY_S


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _garbage(kind: str, reason: str, *paths: Path) -> Garbage:
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return Garbage(kind, paths, reason, sum(file.stat().st_size for file in files))
