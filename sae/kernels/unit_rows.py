"""Operations on every row of a decoder after a gradient and after a step.

The CPU works on a few rows at a time, which stay in the cache over all passes.  So each matrix is read from memory
once.

Shapes: L latents, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 1 << 18  # numbers in one block of rows


def remove_parallel_(grad_LD: Tensor, unit_LD: Tensor) -> None:
    """Subtract from each row of `grad_LD` its component along the row of `unit_LD`, which has norm 1; in place."""
    for grad_RD, unit_RD in zip(_blocks(grad_LD), _blocks(unit_LD), strict=True):
        grad_RD.addcmul_((grad_RD * unit_RD).sum(dim=1, keepdim=True), unit_RD, value=-1.0)


def normalize_(W_LD: Tensor) -> None:
    """Give each row norm 1; in place."""
    for W_RD in _blocks(W_LD):
        W_RD /= torch.linalg.vector_norm(W_RD, dim=1, keepdim=True)


def _blocks(matrix_LD: Tensor) -> Iterator[Tensor]:
    rows = max(1, _BLOCK // matrix_LD.shape[1]) if matrix_LD.device.type == "cpu" else len(matrix_LD)
    return iter(torch.split(matrix_LD, rows))
