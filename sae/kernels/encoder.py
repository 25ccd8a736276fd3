"""The encoder's dense product, in a lower precision than its weights.

    pre = [x, 1, 1, 0 …] · [W, b, b', 0 …]ᵀ        b' = b − b rounded

The bias is stored in two extra columns.  So it keeps its precision, and no further pass over B x L is needed. The
columns are padded to a width that suits matrix units.  All memory is kept between calls, because fetching fresh pages
for B x L costs as much as the product itself.

Shapes: B tokens, L latents, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.kernels.device import on_gpu

_WIDTH = 16  # the number of columns is a multiple of this


def columns(D: int) -> int:
    """Return the number of columns of the factors with the bias in them."""
    return -(-(D + 2) // _WIDTH) * _WIDTH


def with_bias(W_LD: Tensor, b_L: Tensor, out_LC: Tensor) -> Tensor:
    """Write [W, b, b'] into `out` in its precision, and return it.  The further columns of `out` must be 0."""
    D = W_LD.shape[1]
    if on_gpu(W_LD):
        from sae.kernels.triton_rows import pack

        return pack(W_LD, b_L, out_LC)
    out_LC[:, :D] = W_LD
    out_LC[:, D] = b_L
    out_LC[:, D + 1] = b_L - out_LC[:, D]
    return out_LC


def with_ones(x_BD: Tensor, out_BC: Tensor) -> Tensor:
    """Write [x, 1, 1] into `out` in its precision, and return it.  The further columns of `out` must be 0."""
    D = x_BD.shape[1]
    if on_gpu(x_BD):
        from sae.kernels.triton_rows import pack

        return pack(x_BD, None, out_BC)
    out_BC[:, :D] = x_BD
    out_BC[:, D : D + 2] = 1.0
    return out_BC


class EncoderProduct:
    """The product x · Wᵀ + b.  Each call overwrites the result of the previous one."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, x_BD: Tensor, W_LD: Tensor, b_L: Tensor, dtype: torch.dtype) -> Tensor:
        B, D = x_BD.shape
        pre_BL = self._memory("pre", (B, len(W_LD)), dtype, x_BD.device)
        if dtype == W_LD.dtype:
            return torch.addmm(b_L, x_BD, W_LD.T, out=pre_BL)
        x_BC = with_ones(x_BD, self._memory("x", (B, columns(D)), dtype, x_BD.device))
        W_LC = with_bias(W_LD, b_L, self._memory("W", (len(W_LD), columns(D)), dtype, x_BD.device))
        return torch.mm(x_BC, W_LC.T, out=pre_BL)

    def _memory(self, name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or (kept.shape, kept.dtype, kept.device) != (shape, dtype, device):
            kept = self._kept[name] = torch.zeros(shape, dtype=dtype, device=device)
        return kept
