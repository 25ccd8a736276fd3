"""Deletion and renaming of an SAE with everything in the workspace that belongs to it.

An SAE's folder, its builds and its comparisons are moved by renames, each of which happens whole or not at all.
What is deleted goes through a folder `trash`, so that a half-deleted SAE is never listed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from sae.autoencoder.config import read_config, update_config
from sae.errors import UserError
from sae.runs.names import names_lock, owner
from sae.store.comparison import comparison_path
from sae.workspace.files import atomic_write
from sae.workspace.paths import Workspace, check_name


@dataclass(frozen=True)
class SaeFiles:
    """The files of an SAE: `builds` and `comparisons` are counts, `n_bytes` is the disk space of all."""

    sae_id: str
    builds: int
    comparisons: int
    n_bytes: int


def files_of(workspace: Workspace, sae_id: str) -> SaeFiles:
    """Count what belongs to an SAE.  Raises UserError (field `sae`) if there is no such SAE."""
    _check_there(workspace, sae_id)
    compared = [path for path, _, _ in comparisons_of(workspace, sae_id)]
    folders = (workspace.sae(sae_id), workspace.builds(sae_id))
    files = [*compared, *(path for folder in folders for path in folder.rglob("*") if path.is_file())]
    return SaeFiles(sae_id, len(workspace.build_ids(sae_id)), len(compared), sum(path.stat().st_size for path in files))


def delete_sae_files(workspace: Workspace, sae_id: str) -> None:
    """Delete an SAE, its builds and its comparisons.  Raises UserError (field `sae`) if there is no such SAE."""
    trash = workspace.root / "trash" / secrets.token_hex(8)
    with names_lock(workspace):
        _check_there(workspace, sae_id)
        trash.mkdir(parents=True)
        doomed = [workspace.sae(sae_id), workspace.builds(sae_id)]  # the SAE first: without it nothing is listed
        doomed += [path for path, _, _ in comparisons_of(workspace, sae_id)]
        for number, path in enumerate(doomed):
            if path.exists():
                os.replace(path, trash / str(number))
        _remove_empty(workspace, sae_id)
        shutil.rmtree(trash.parent, ignore_errors=True)  # includes the rest of interrupted deletions


def rename_sae_files(workspace: Workspace, sae_id: str, name: str) -> str:
    """Give an SAE another name under its model and return its new id; its `sae.json` keeps the former names.

    Raises UserError: field `sae` if there is no such SAE, field `name` if the name is not usable or not free.  If it
    is interrupted, the same call completes it.
    """
    model = sae_id.partition("/")[0]
    new_id = f"{model}/{check_name(name)}"
    with names_lock(workspace):
        _check_there(workspace, sae_id)
        if new_id == sae_id or owner(new_id, workspace) is not None:
            raise UserError(f"name: {new_id} already exists, or a run is making it; choose another name", "name")
        (workspace.sae(new_id) / "claim.json").unlink(missing_ok=True)  # the claim of a run that has ended
        if workspace.builds(sae_id).exists():
            workspace.builds(new_id).parent.mkdir(parents=True, exist_ok=True)
            os.rename(workspace.builds(sae_id), workspace.builds(new_id))
        for path, a, b in list(comparisons_of(workspace, sae_id)):
            other = b if a == sae_id else a
            _rewrite_comparison(path, comparison_path(workspace, new_id, other), sae_id, new_id)
        former = read_config(workspace.sae(sae_id)).get("former_names") or []
        update_config(workspace.sae(sae_id), id=new_id, former_names=[
            one for one in dict.fromkeys([*former, sae_id.partition("/")[2]]) if one != name])
        os.rename(workspace.sae(sae_id), workspace.sae(new_id))
    return new_id


def comparisons_of(workspace: Workspace, sae_id: str) -> Iterator[tuple[Path, str, str]]:
    """Yield the comparison files in which an SAE takes part, each with the ids of its two SAEs."""
    for path in sorted(workspace.root.glob("comparisons/*/*.duckdb")):
        # `comparison_path` names the file <model>/<first>~<model>~<second>; names have no `~`.
        first, _, second = path.stem.partition("~")
        pair = f"{path.parent.name}/{first}", second.replace("~", "/", 1)
        if sae_id in pair:
            yield path, *pair


@contextmanager
def still_there(workspace: Workspace, sae_id: str, made: Path) -> Iterator[None]:
    """Remove `made` again if the SAE was deleted or renamed while a run made it.  Raises UserError (field `sae`)."""
    yield
    with names_lock(workspace):
        if (workspace.sae(sae_id) / "sae.json").exists():
            return
        for path in (made, made.with_suffix(".arrow")):
            path.unlink(missing_ok=True)
        _remove_empty(workspace, sae_id)
    raise UserError(f"sae: {sae_id} was deleted or renamed while this run was reading it", "sae")


def _check_there(workspace: Workspace, sae_id: str) -> None:
    if not (workspace.sae(sae_id) / "sae.json").is_file():
        raise UserError(f"sae: there is no SAE {sae_id} in this workspace", "sae")


def _remove_empty(workspace: Workspace, sae_id: str) -> None:
    """Remove the folders of the SAE and of its model if they are empty."""
    for folder in (workspace.builds(sae_id), workspace.builds(sae_id).parent, workspace.sae(sae_id).parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _rewrite_comparison(path: Path, target: Path, old: str, new: str) -> None:
    with atomic_write(target) as temporary:
        shutil.copy(path, temporary)
        with duckdb.connect(str(temporary)) as con:
            con.execute("UPDATE meta SET value = ? WHERE key IN ('a', 'b') AND value = ?",
                        [json.dumps(new), json.dumps(old)])
    path.unlink()
