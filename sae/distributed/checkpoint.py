"""The checkpoint of several processes: one file for every shard, all of the same step.

    train.pt              shard 0, and the step of the checkpoint
    train.pt.3.1200       shard 3 at step 1200

Replicas are equal, so only the first one writes.  The files of the other shards are written before `train.pt` is
replaced, and older ones are deleted after it.  So `train.pt` names files of one step, even if the run is killed at any
moment.  A run resumes with the number of shards that it was started with, and with any number of replicas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae.distributed import Group
from sae.errors import UserError
from sae.workspace.checkpoint import load_checkpoint, save_checkpoint


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
        for other in path.parent.glob(f"{path.name}.{group.shard}.*"):
            if other != own:
                other.unlink()


def load_shards(path: Path, device: torch.device, group: Group) -> Any | None:
    """Return the state that this process's shard saved, or None if there is none.

    Raises UserError: field `shards` if the number of shards differs, field `run` if this shard's file is missing.
    """
    state = load_checkpoint(path, device)
    if state is None:
        return None
    if state.get("shards", 1) != group.shards:
        raise UserError(f"shards: the checkpoint has {state.get('shards', 1)} shards, not {group.shards}", "shards")
    if not group.shard:
        return state
    own = path.with_name(f"{path.name}.{group.shard}.{state['step']}")
    if not own.exists():
        raise UserError(f"run: its checkpoint is incomplete, {own.name} is missing; start the run again", "run")
    return load_checkpoint(own, device)
