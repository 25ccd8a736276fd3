"""Checkpoints: whole or absent, never half."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: Any) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) under `path`, replacing it atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Any | None:
    """What was saved, or None if there is nothing.  No pickled code is run."""
    if not path.exists():
        return None
    return torch.load(path, map_location=device, weights_only=True)
