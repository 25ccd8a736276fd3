"""The weights of a loaded model compared with its files, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae.lm.model_info import ModelInfo


def equal_to_files(info: ModelInfo, weights: Iterable[tuple[str, Tensor]]) -> bool:
    """Return whether every weight, by its name in the plain model, is to the bit what the model's files hold.

    False also where that cannot be said: files of another kind, or names that the library changes when it loads them.
    """
    folder = _folder(info)
    opened: dict[str, Any] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")) if folder else []:
            file: Any = safe_open(path, framework="pt")
            opened |= dict.fromkeys(file.keys(), file)
    except (OSError, SafetensorError):
        return False
    return bool(opened) and all(_equal(opened, name, weight) for name, weight in weights)


def _equal(opened: dict[str, Any], name: str, weight: Tensor) -> bool:
    if weight.is_meta or not weight.is_floating_point():
        return False
    # A file may have been saved with or without the part of the model that a head stands on.
    key = next((key for key in (name, name.partition(".")[2]) if key in opened), None)
    if key is None:
        return False
    found: Tensor = opened[key].get_tensor(key)
    return found.shape == weight.shape and torch.equal(found.to(weight.dtype), weight.detach().cpu())


def _folder(info: ModelInfo) -> Path | None:
    """Return the folder of a model's files on this disk; None for an adapter, whose weights are in no file."""
    if info.adapter:
        return None
    if info.local:
        return Path(info.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(info.source, local_files_only=True))
    except Exception:  # the client raises many kinds where a model is not in its cache
        return None
