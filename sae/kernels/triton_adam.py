"""One Adam step over rows on a GPU, with all that surrounds it, reading each matrix as few times as possible.

A decoder's rows keep unit norm, so the component of a row's gradient along the row has no effect.  It is removed, the
gradients are clipped together, Adam takes its step, and the row is normalised again.  Torch's operations for this read
and write some twenty matrices.  Here a first pass reads the gradient and the weight for the norm, and a second reads
four matrices and writes three.  A row may have a bias, which takes its step in the same passes.

    norm    ‖g − (g·w) w‖² of each row            (plain rows: ‖g‖²), and its bias's gradient squared
    step    g ← c · (g − (g·w) w),  c = min(1, clip / (√Σ norm + 1e-6));  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²
            w ← w − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε);  w ← w/‖w‖

Shapes: L rows, D width.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.device import on_its_device

CLIP_EPS = 1e-6  # as torch adds it to the norm
Moments = tuple[Tensor, Tensor]


@on_its_device
def square_norms(
    grad_LD: Tensor, W_LD: Tensor, out_L: Tensor, *, unit: bool, bias_grad_L: Tensor | None = None
) -> None:
    """Write each row's ‖gradient‖² as the step uses it, without the component along the row if rows are `unit`."""
    L, D = grad_LD.shape
    tile, warps = _tile(D)
    if L:
        _norm_kernel[(L,)](grad_LD, W_LD, grad_LD if bias_grad_L is None else bias_grad_L, out_L, D, UNIT=unit,
                           BIAS=bias_grad_L is not None, TILE=tile, num_warps=warps)


@on_its_device
def adam_step(
    W_LD: Tensor, grad_LD: Tensor, moments: Moments, *, square: Tensor, clip: float, step: int, lr: float,
    betas: tuple[float, float], eps: float, unit: bool, bias: tuple[Tensor, Tensor, Moments] | None = None,
) -> None:
    """Take step number `step` (from 1) on the rows of W, in place.

    The gradients are scaled to a norm of at most `clip`; `square` [] is the squared norm of all of them.  `bias` holds
    the rows' biases [L], their gradient and their moments.
    """
    L, D = W_LD.shape
    tile, warps = _tile(D)
    b, b_grad, (b_mean, b_square) = bias or (W_LD, grad_LD, moments)
    if L:
        _adam_kernel[(L,)](W_LD, grad_LD, *moments, b, b_grad, b_mean, b_square, square, D, clip,
                           lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5, betas[0], betas[1], eps,
                           UNIT=unit, BIAS=bias is not None, CLIP_EPS=CLIP_EPS, TILE=tile, num_warps=warps)


def _tile(D: int) -> tuple[int, int]:
    tile = triton.next_power_of_2(max(D, 32))
    return tile, min(16, max(1, tile // 256))


@triton.jit
def _norm_kernel(grad, W, bias_grad, out, D, UNIT: tl.constexpr, BIAS: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    inside = column < D
    g = tl.load(grad + row * D + column, mask=inside, other=0.0)
    if UNIT:
        w = tl.load(W + row * D + column, mask=inside, other=0.0)
        g -= tl.sum(g * w, axis=0) * w
    square = tl.sum(g * g, axis=0)
    if BIAS:
        b = tl.load(bias_grad + row)
        square += b * b
    tl.store(out + row, square)


@triton.jit
def _adam(w, g, m, v, rate, root, beta1, beta2, eps):
    """Return the stepped weight and moments."""
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    return w - rate * m / (tl.sqrt(v) / root + eps), m, v


@triton.jit
def _adam_kernel(
    W, grad, means, squares, bias, bias_grad, bias_means, bias_squares, square, D, clip, rate, root, beta1, beta2, eps,
    UNIT: tl.constexpr, BIAS: tl.constexpr, CLIP_EPS: tl.constexpr, TILE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    inside = column < D
    at = row * D + column
    scale = tl.minimum(clip / (tl.sqrt(tl.load(square)) + CLIP_EPS), 1.0)
    w = tl.load(W + at, mask=inside, other=0.0)
    g = tl.load(grad + at, mask=inside, other=0.0)
    if UNIT:
        g -= tl.sum(g * w, axis=0) * w
    m = tl.load(means + at, mask=inside, other=0.0)
    v = tl.load(squares + at, mask=inside, other=0.0)
    w, m, v = _adam(w, g * scale, m, v, rate, root, beta1, beta2, eps)
    if UNIT:
        w /= tl.sqrt(tl.sum(w * w, axis=0))
    tl.store(W + at, w, mask=inside)
    tl.store(means + at, m, mask=inside)
    tl.store(squares + at, v, mask=inside)
    if BIAS:
        b, bm, bv = _adam(tl.load(bias + row), tl.load(bias_grad + row) * scale, tl.load(bias_means + row),
                          tl.load(bias_squares + row), rate, root, beta1, beta2, eps)
        tl.store(bias + row, b)
        tl.store(bias_means + row, bm)
        tl.store(bias_squares + row, bv)
