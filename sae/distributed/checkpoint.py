"""The checkpoint of several processes: a file for every shard, of one step or not at all.

    train.pt              shard 0, and which step the checkpoint is of
    train.pt.3.1200       shard 3 at step 1200

Replicas are equal, so only the first one writes.  The other shards' files are there before `train.pt`
is replaced, and older ones are deleted after it was: killed at any moment, it names files of one step.
A run resumes with the shards that it was begun with, and any number of replicas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae.distributed import Group
from sae.errors import UserError
from sae.workspace.checkpoint import load_checkpoint, save_checkpoint


def save_shards(path: Path, state: dict[str, Any], group: Group) -> None:
    """Save every process's `state`, which has its `step`; collective."""
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
    """What this process's shard had saved, or None if there is nothing.

    Raises UserError (field `shards`) where there were another number of them.
    """
    state = load_checkpoint(path, device)
    if state is None:
        return None
    if state.get("shards", 1) != group.shards:
        raise UserError(f"shards: the checkpoint is of {state.get('shards', 1)} shards, not {group.shards}", "shards")
    if not group.shard:
        return state
    own = path.with_name(f"{path.name}.{group.shard}.{state['step']}")
    if not own.exists():
        raise UserError(f"run: its checkpoint is not whole, {own.name} is missing; start the run anew", "run")
    return load_checkpoint(own, device)
