"""One Adam step over rows on a GPU, with all that surrounds it, reading each matrix as few times as possible.

A decoder's rows keep unit norm, so the component of a row's gradient along the row has no effect.  It is removed, the
gradients are clipped together, Adam takes its step, and the row is normalised again.  Torch's operations for this read
and write some twenty matrices.  Here a first pass reads the gradient and the weight for the norm, and a second reads
four matrices and writes three.

    norm    Σ over rows of ‖g − (g·w) w‖²         (plain rows: Σ‖g‖²)
    step    g ← c · (g − (g·w) w);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²
            w ← w − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε);  w ← w/‖w‖

Shapes: L rows, D width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.device import on_its_device


@on_its_device
def square_norm(grad_LD: Tensor, W_LD: Tensor, *, unit: bool) -> Tensor:
    """Return ‖gradient‖² as the step uses it, without the component along the rows if they are `unit`.  Shape []."""
    L, D = grad_LD.shape
    square_L = torch.empty(L, device=grad_LD.device)
    tile, warps = _tile(D)
    if L:
        _norm_kernel[(L,)](grad_LD, W_LD, square_L, D, UNIT=unit, TILE=tile, num_warps=warps)
    return square_L.sum()


@on_its_device
def adam_step(
    W_LD: Tensor, grad_LD: Tensor, mean_LD: Tensor, square_LD: Tensor, *, clip: Tensor, step: int, lr: float,
    betas: tuple[float, float], eps: float, unit: bool,
) -> None:
    """Take step number `step` (from 1) on the rows of W, in place, with their gradient scaled by `clip` []."""
    L, D = W_LD.shape
    tile, warps = _tile(D)
    if L:
        _adam_kernel[(L,)](W_LD, grad_LD, mean_LD, square_LD, clip, D, lr / (1 - betas[0] ** step),
                           (1 - betas[1] ** step) ** 0.5, betas[0], betas[1], eps, UNIT=unit, TILE=tile,
                           num_warps=warps)


def _tile(D: int) -> tuple[int, int]:
    tile = triton.next_power_of_2(max(D, 32))
    return tile, min(16, max(1, tile // 256))


@triton.jit
def _norm_kernel(grad, W, out, D, UNIT: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    inside = column < D
    g = tl.load(grad + row * D + column, mask=inside, other=0.0)
    if UNIT:
        w = tl.load(W + row * D + column, mask=inside, other=0.0)
        g -= tl.sum(g * w, axis=0) * w
    tl.store(out + row, tl.sum(g * g, axis=0))


@triton.jit
def _adam_kernel(
    W, grad, means, squares, clip, D, rate, root, beta1, beta2, eps, UNIT: tl.constexpr, TILE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    inside = column < D
    at = row * D + column
    w = tl.load(W + at, mask=inside, other=0.0)
    g = tl.load(grad + at, mask=inside, other=0.0)
    if UNIT:
        g -= tl.sum(g * w, axis=0) * w
    g *= tl.load(clip)
    m = tl.load(means + at, mask=inside, other=0.0)
    v = tl.load(squares + at, mask=inside, other=0.0)
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w -= rate * m / (tl.sqrt(v) / root + eps)
    if UNIT:
        w /= tl.sqrt(tl.sum(w * w, axis=0))
    tl.store(W + at, w, mask=inside)
    tl.store(means + at, m, mask=inside)
    tl.store(squares + at, v, mask=inside)
