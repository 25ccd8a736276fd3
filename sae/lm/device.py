"""The device on which a model runs."""

from __future__ import annotations

import torch

from sae.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda[:n]` or `mps` means here.  Raises UserError (field `device`)."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    if name == "mps" and not has_mps:
        raise UserError("device: mps was asked for, but this machine has no Apple GPU", "device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: {name} was asked for, but this machine has no CUDA device", "device")
    return torch.device(name)
