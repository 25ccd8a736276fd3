"""A sweep in parts: each part trains some of the SAEs, and the sweep gathers their metrics and curves.

An SAE does not depend on the others that share its batches, so the SAEs are those of an undivided sweep, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.runs.folder import RunFolder, order
from sae.runs.parts import divide, parent_of, part_file, parts_folder
from sae.runs.progress import Reporter
from sae.specs.registry import PartSpec, SweepSpec
from sae.workspace.files import write_json, write_json_once
from sae.workspace.paths import Workspace


def train_part(part: PartSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Make the SAEs of a part, and leave their metrics and curves for the sweep.  Return the run's result.

    Raises UserError; its field is `part` if the sweep has begun to train these SAEs itself.
    """
    from sae.runs.train import train_members

    parent, spec = parent_of(part, "sweep", workspace)
    assert isinstance(spec, SweepSpec)
    numbers, rest = _numbers(spec)[part.part - 1], _rest(parent)
    if rest.exists() and set(numbers) & set(json.loads(rest.read_text(encoding="utf-8"))):
        raise UserError(f"part: {parent.id} has begun to train the SAEs of part {part.part} itself; resume that run",
                        "part")
    result = train_members(spec, folder, workspace, reporter, numbers, parent.id)
    if result:  # rank 0
        write_json(part_file(parent, part.part, spec.parts), {**result, "rows": folder.progress()})
    return result


def train_the_rest(spec: SweepSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Make the SAEs that no part has made, on one pass of activations, and return the whole sweep's result.

    Raises UserError; its field is `lr` if all SAEs of all parts have diverged.
    """
    from sae.runs.train import train_members

    numbers = _numbers(spec)
    files = [part_file(folder, number, spec.parts) for number in range(1, spec.parts + 1)]
    # A checkpoint is of certain SAEs, so a later process must make the same ones.
    mine = write_json_once(_rest(folder), [
        number for one, file in zip(numbers, files, strict=True) if not file.exists() for number in one])
    result = train_members(spec, folder, workspace, reporter, mine) if mine else {"members": []}
    if not result:  # a rank above 0
        return {}
    found = dict(zip(mine, result["members"], strict=True))
    rows = [row for row in folder.progress() if row.get("member") in found]
    for one, file in zip(numbers, files, strict=True):
        if not found.keys() >= set(one):
            made = json.loads(file.read_text(encoding="utf-8"))
            found |= zip(one, made["members"], strict=True)
            rows += made["rows"]
    folder.replace_progress(_in_order(rows))
    members = [found[number] for number in range(len(spec.members()))]
    if all(member["sae"] is None for member in members):
        raise UserError(str(members[0]["error"]), "lr")
    return {"members": members}


def _rest(sweep: RunFolder) -> Path:
    """Return the file with the numbers of the SAEs that the sweep itself makes."""
    return parts_folder(sweep) / "rest.json"


def _numbers(spec: SweepSpec) -> list[range]:
    """Return the numbers of the SAEs of each part; the time for an SAE grows with its latents."""
    return divide([float(member.n_latents) for member in spec.members()], spec.parts)


def _in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of several runs as one run would have written them: the training by step, then the evaluation."""
    return sorted(rows, key=lambda row: ("step" not in row, *order(row)))
