"""Random tensors by the names that files give them."""

from __future__ import annotations

import torch

D, L = 12, 40


def random(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}
