"""The parts of a run: pieces of its work that other runs do at the same time, each in a process of its own.

A part leaves its result in its parent's folder, whole or not at all.  The parent does what no part has done, and merges
all of it to the result of an undivided run.  No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.specs.registry import PARTED, PartSpec, RunSpec, n_parts, parse_spec
from sae.workspace.paths import Workspace


def parts_folder(folder: RunFolder) -> Path:
    """Return the folder of a run's finished parts, which goes with its checkpoints."""
    return folder.checkpoints / "parts"


def part_file(folder: RunFolder, number: int, of: int) -> Path:
    """Return the file with the result of part `number`, counted from 1, of `of` parts of the run in `folder`."""
    return parts_folder(folder) / f"part-{number}-of-{of}.json"


def parent_of(part: PartSpec, kind: str, workspace: Workspace) -> tuple[RunFolder, RunSpec]:
    """Return the folder and the spec of the run of this kind that a part belongs to.

    Raises UserError (field `run` or `part`).
    """
    folder = RunFolder(workspace.run(part.run))
    if not (folder.path / "spec.json").exists():
        raise UserError(f"run: there is no run {part.run} in this workspace", "run")
    found, values = folder.spec()
    if found != kind:
        raise UserError(f"run: {part.run} is not a run of the kind {kind}", "run")
    spec = parse_spec(kind, values)
    n = n_parts(kind, spec.model_dump(include={PARTED[kind]}))
    if part.part > n:
        raise UserError(f"part: {part.run} has {n} parts, so there is no part {part.part}", "part")
    return folder, spec


def divide(costs: Sequence[float], n: int) -> list[range]:
    """Divide items into `n` consecutive ranges of about the same cost; none is empty if there are enough items."""
    ranges, start = [], 0
    for left in range(n, 0, -1):  # ranges that are still to be made
        aim, end, taken = sum(costs[start:]) / left, start, 0.0
        while end < len(costs) - (left - 1) and (left == 1 or end == start or taken + costs[end] / 2 <= aim):
            taken += costs[end]
            end += 1
        ranges.append(range(start, end))
        start = end
    return ranges
