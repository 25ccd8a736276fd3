"""Names of SAEs, and claims on them: two runs that want one name at the same moment never both get it.

A run claims a name before it makes the SAE: it creates the SAE's folder with a `claim.json` that names the run.
A claim expires when its run ends, disappears, or was killed and is not resumed at once.  A run that fails or is
cancelled removes its claims.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from filelock import FileLock

from sae.errors import UserError
from sae.lm.sites import KINDS
from sae.runs.folder import FINAL_STATES, RunFolder
from sae.specs.registry import ActivationsSpec, SweepSpec, TrainSpec
from sae.workspace.files import is_locked, lock, write_json
from sae.workspace.paths import Workspace, check_name, slug

_CLAIM = "claim.json"
_KILLED_S = 30.0  # a run without a process and without a heartbeat for so long is not about to be resumed


def claim_names(
    spec: TrainSpec | SweepSpec, model_id: str, folder: RunFolder, workspace: Workspace,
    members: Sequence[TrainSpec] | None = None, run: str = "",
) -> list[str]:
    """Claim and return the ids `<model>/<name>` of the SAEs that a run makes: all of `spec`, or `members` of it.

    The ids are chosen once, so that a resumed run keeps them.  `run` is the id that finished SAEs name as their maker,
    where it is not the run in `folder`.  Raises UserError (field `name`) if the requested name is not free.
    """
    note = folder.path / "sae_id.txt"
    chosen = note.read_text(encoding="utf-8").split() if note.exists() else []
    names = [_wanted(spec, member) for member in (spec.members() if members is None else members)]
    with names_lock(workspace):
        mine = {sae_id for sae_id in chosen if owner(sae_id, workspace) in (folder.id, run or folder.id)}
        ids: list[str] = []
        for i, name in enumerate(names):
            if i < len(chosen) and chosen[i] in mine:
                ids.append(chosen[i])
            else:
                ids.append(_free(name, model_id, bool(spec.name), mine.union(ids), folder, workspace))
            claim = workspace.sae(ids[-1]) / _CLAIM
            if not claim.with_name("sae.json").exists():
                write_json(claim, {"run": folder.id, "folder": str(folder.path.resolve())})
    note.write_text("\n".join(ids), encoding="utf-8")
    return ids


def kept_name(spec: ActivationsSpec, folder: RunFolder) -> str:
    """Return the name of the activations that a run keeps."""
    return spec.name or slug(folder.id.partition("-")[2] or folder.id)


def names_lock(workspace: Workspace) -> FileLock:
    """Return the lock under which names are given, changed and removed: one process of the workspace at a time."""
    return lock(workspace.root / "saes" / ".lock")


def release(sae_id: str, workspace: Workspace) -> None:
    """Remove the claim of an SAE that has been saved."""
    (workspace.sae(sae_id) / _CLAIM).unlink(missing_ok=True)


def release_run(folder: RunFolder, workspace: Workspace) -> None:
    """Remove the claims of a run on names of SAEs that it did not make."""
    note = folder.path / "sae_id.txt"
    for sae_id in note.read_text(encoding="utf-8").split() if note.exists() else []:
        with names_lock(workspace), contextlib.suppress(OSError, ValueError, KeyError):
            claim = workspace.sae(sae_id) / _CLAIM
            if json.loads(claim.read_text(encoding="utf-8"))["run"] == folder.id:
                claim.unlink()
                claim.parent.rmdir()  # fails, and stays, if the folder holds anything else


def default_name(spec: TrainSpec, detailed: bool = False) -> str:
    """Return a name made of layer, site, architecture and size, e.g. `2-res-batchtopk-4k`.

    A transcoder's name has both of its sites.  `detailed` adds the sparsity setting: `2-res-batchtopk-4k-k32`.
    """
    sites = [KINDS[site] for site in (spec.site, spec.out_site) if site]
    site = "-".join([sites[0] + (f"_h{spec.head}" if spec.head >= 0 else ""), *sites[1:]])
    return f"{spec.layer}-{site}-{_kind(spec, detailed)}"


def _wanted(spec: TrainSpec | SweepSpec, member: TrainSpec) -> str:
    several = isinstance(spec, SweepSpec)
    if not spec.name:
        return default_name(member, several)
    layer = f"{member.layer}-" if several and spec.layers else ""  # type: ignore[union-attr]
    return check_name(f"{spec.name}-{layer}{_kind(member, True)}" if several else spec.name)


def _kind(spec: TrainSpec, detailed: bool) -> str:
    size = f"{spec.n_latents // 1024}k" if spec.n_latents % 1024 == 0 else str(spec.n_latents)
    sparse = f"l1-{spec.l1_coefficient:g}" if spec.architecture in ("relu", "gated") else f"k{spec.k}"
    return f"{spec.architecture.replace('_', '')}-{size}" + (f"-{sparse}" if detailed else "")


def _free(
    name: str, model_id: str, exactly: bool, taken: set[str], folder: RunFolder, workspace: Workspace
) -> str:
    """Return `<model>/<name>`, or the first of `name-2`, `name-3`, … that no SAE has and no run has claimed."""
    for number in count(1):
        sae_id = f"{model_id}/{name}" if number == 1 else f"{model_id}/{name}-{number}"
        if sae_id not in taken and owner(sae_id, workspace) in (None, folder.id):
            return sae_id
        if exactly:
            raise UserError(f"name: the SAE {sae_id} already exists, or a run is making it; choose another name",
                            "name")
    raise AssertionError("unreachable: count() never ends")


def owner(sae_id: str, workspace: Workspace) -> str | None:
    """Return the id of the run that made or claimed an SAE; "" if it is unknown, None if the name is free."""
    folder = workspace.sae(sae_id)
    for name in ("sae.json", _CLAIM):
        with contextlib.suppress(FileNotFoundError, ValueError):
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                continue  # a damaged `sae.json` still takes the name
            if name == _CLAIM and _ended(Path(content["folder"])):
                return None
            return str(content.get("run") or "")
    return "" if (folder / "sae.json").exists() else None


def _ended(run: Path) -> bool:
    status = RunFolder(run).status()
    if not (run / "spec.json").exists() or (status is not None and status.state in FINAL_STATES):
        return True
    if status is None or status.state not in ("starting", "running") or (
            abs(time.time() - status.heartbeat) < _KILLED_S):  # after a jump of the clock, the lock decides
        return False
    return not is_locked(run / "lock")  # the system frees the lock of a killed process
