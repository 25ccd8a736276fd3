"""The checkpoint of several processes: one file for every shard, all of the same step.

    train.pt              shard 0, and the step of the checkpoint
    train.pt.3.1200       shard 3 at step 1200

Replicas are equal, so only the first one writes.  The files of the other shards are written before `train.pt` is
replaced, and older ones are deleted after it, except those of the checkpoint before.  So `train.pt` names files of one
step, even if the run is killed at any moment.  If a file of the last checkpoint is damaged, all processes resume from
the one before.  A run resumes with the number of shards that it was started with, and with any number of replicas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae.distributed import Group
from sae.errors import DamagedFile, UserError
from sae.workspace.checkpoint import before_last, read_checkpoint, save_checkpoint


def save_shards(path: Path, state: dict[str, Any], group: Group) -> None:
    """Save every process's `state`, which contains its `step`.  Collective."""
    own = path.with_name(f"{path.name}.{group.shard}.{state['step']}")
    if group.replica == 0 and group.shard:
        save_checkpoint(own, state)
    group.wait()
    if group.is_main:
        save_checkpoint(path, state | {"shards": group.shards})
    group.wait()
    if group.replica == 0 and group.shard:
        steps = {int(other.name.rpartition(".")[2]): other for other in path.parent.glob(f"{path.name}.{group.shard}.*")
                 if other.name.rpartition(".")[2].isdecimal()}
        earlier = max((step for step in steps if step < state["step"]), default=None)
        for step, other in steps.items():
            if step not in (state["step"], earlier):
                other.unlink()


def load_shards(path: Path, device: torch.device, group: Group) -> Any | None:
    """Return the state that this process's shard saved, or None if there is none.  Collective.

    All processes return the same step: the last that every one of them can read.  Raises UserError (field `shards`) if
    the number of shards differs, and DamagedFile (field `run`) if there are checkpoints, but none can be read.
    """
    fault: DamagedFile | None = None
    for file in (path, before_last(path)):
        state = None
        try:
            state = _own_state(file, path, device, group)
        except DamagedFile as error:
            fault = fault or error
            print(f"{error}", flush=True)
        if not group.any(state is None):
            return state
    if group.any(fault is not None):
        raise fault or DamagedFile(f"run: its checkpoint {path.name} is damaged; start the run again", path, "run")
    return None


def _own_state(file: Path, path: Path, device: torch.device, group: Group) -> Any | None:
    """Return this shard's state of the checkpoint `file`, or None if there is no such checkpoint."""
    state = read_checkpoint(file, device)
    if state is None:
        return None
    if state.get("shards", 1) != group.shards:
        raise UserError(f"shards: the checkpoint has {state.get('shards', 1)} shards, not {group.shards}", "shards")
    if not group.shard:
        return state
    own = path.with_name(f"{path.name}.{group.shard}.{state['step']}")
    if not own.exists():
        raise DamagedFile(f"run: its checkpoint is incomplete, {own.name} is missing; start the run again", own, "run")
    return read_checkpoint(own, device)
