"""Faults of a workspace's files, each with what mends it, for `saescope doctor`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import psutil

from sae.autoencoder.config_check import load_config, weights_fault
from sae.errors import UserError
from sae.runs.folder import FINAL_STATES, RunFolder
from sae.runs.garbage import unfinished
from sae.store.build import Build
from sae.store.connection import connect
from sae.store.damage import check_build_size
from sae.store.page_file import LatentPageFile, page_file_path
from sae.workspace.files import HOST
from sae.workspace.paths import Workspace

_SILENT_S = 60.0  # a run without a heartbeat for this long, and without a process, has stopped


@dataclass(frozen=True)
class Finding:
    """A fault: its kind, the thing, what is wrong, what mends it, and the mend itself if it is safe."""

    kind: str  # missing, orphaned, damaged, stale
    what: str
    wrong: str
    mend: str
    fix: Callable[[], object] | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}: {self.wrong}. {self.mend}"


def examine(workspace: Workspace, deep: bool = False) -> Iterator[Finding]:
    """Yield the faults of SAEs, builds, runs and unfinished files.  `deep` reads every block of every build."""
    yield from _saes(workspace)
    yield from _builds(workspace, deep)
    yield from _runs(workspace)
    for left in unfinished(workspace):
        for path in left.paths:
            yield Finding(
                "stale", str(path.relative_to(workspace.root)), left.reason, "It can be deleted.", left.remove)


def _saes(workspace: Workspace) -> Iterator[Finding]:
    for sae_id in workspace.sae_ids():
        try:
            folder = workspace.sae(sae_id)
        except UserError as error:
            yield Finding("orphaned", f"saes/{sae_id}", str(error), "Rename the folder, or move it away.")
            continue
        restore = f"Restore the file from a backup, or delete the SAE with: saescope delete {sae_id}"
        try:
            config = load_config(folder / "sae.json")
        except ValueError as error:
            yield Finding("damaged", sae_id, str(error), restore)
            continue
        if fault := weights_fault(folder):
            yield Finding("damaged", sae_id, fault, restore)
        elif config.get("weights") != "none" and not (folder / "sae.safetensors").exists():
            yield Finding("missing", sae_id, "sae.safetensors is missing", restore)
    for path in sorted(workspace.root.glob("saes/*/*/claim.json")):
        if not path.with_name("sae.json").exists() and _claim_is_void(path):
            yield Finding("stale", str(path.relative_to(workspace.root)), "the run that claimed this name has ended",
                          "The claim can be deleted.", partial(_drop_claim, path))


def _builds(workspace: Workspace, deep: bool) -> Iterator[Finding]:
    known = set(workspace.sae_ids())
    for path in sorted(workspace.root.glob("builds/*/*/*.duckdb")):
        sae_id = f"{path.parent.parent.name}/{path.parent.name}"
        what = f"{sae_id}, build {path.stem}"
        if sae_id not in known:
            yield Finding("orphaned", what, "its SAE is not here",
                          f"Restore saes/{sae_id} from a backup, or delete builds/{sae_id}.")
        try:
            check_build_size(path)
            with connect(path) as con:
                made_of = json.loads(con.execute("SELECT value FROM meta WHERE key = 'build_id'").fetchall()[0][0])
                for table, in con.execute("SELECT table_name FROM duckdb_tables()").fetchall() if deep else ():
                    for _ in con.sql(f'FROM "{table}"').to_arrow_reader(100_000):
                        pass
        except UserError as error:
            said = str(error).partition(" is damaged: ")[2].partition(". Build")[0] or str(error)
            yield Finding("damaged", what, said, f"Build it again with: saescope index --sae {sae_id}")
            continue
        except (duckdb.Error, ValueError, IndexError) as error:
            reason = str(error).strip().splitlines()[0].replace(f"{path.parent}/", "")
            yield Finding("damaged", what, reason, f"Build it again with: saescope index --sae {sae_id}")
            continue
        if (found := LatentPageFile.open(page_file_path(path), made_of)) is None:
            yield Finding("missing", what, f"its page file {page_file_path(path).name} is missing or damaged",
                          "It is made again when the build is opened.", partial(_remake_page_file, path))
        else:
            found.close()
    for path in sorted(workspace.root.glob("builds/*/*/*.arrow")):
        if not path.with_suffix(".duckdb").exists():
            yield Finding("orphaned", str(path.relative_to(workspace.root)), "its build is not here",
                          "It can be deleted.", path.unlink)


def _runs(workspace: Workspace) -> Iterator[Finding]:
    for path in sorted(path for path in workspace.root.glob("runs/*") if path.is_dir()):
        folder, what = RunFolder(path), f"run {path.name}"
        try:
            folder.spec()
        except (OSError, UserError):
            yield Finding("damaged", what, "its spec.json is missing or damaged, so it cannot be shown or resumed",
                          f"Restore the file from a backup, or delete the folder runs/{path.name}.")
            continue
        status = folder.status()
        if status is None and (path / "status.json").exists():
            yield Finding("damaged", what, "its status.json cannot be read",
                          "It does not matter: the run resumes from its checkpoint.", (path / "status.json").unlink)
        elif status and status.state not in FINAL_STATES and time.time() - status.heartbeat > _SILENT_S and not (
                status.host in ("", HOST) and status.pid and psutil.pid_exists(status.pid)):
            yield Finding("stale", what, f"its status says {status.state}, but its process is gone",
                          f"A running server resumes it; on the command line: saescope run {path}")


def _remake_page_file(build: Path) -> None:
    Build.open(build).close()


def _claim_is_void(path: Path) -> bool:
    try:
        run = RunFolder(Path(json.loads(path.read_text(encoding="utf-8"))["folder"]))
    except (OSError, ValueError, KeyError, TypeError):
        return True
    status = run.status()
    return not (run.path / "spec.json").exists() or (status is not None and status.state in FINAL_STATES)


def _drop_claim(path: Path) -> None:
    path.unlink(missing_ok=True)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
