"""Small passes over rows on a GPU, each in one launch where torch's operations take several.

    pack        [W, b, b'] or [x, 1, 1] in the precision of the product (`sae.kernels.encoder`)
    residual    e = t − (ŷ + b_dec), in the memory of ŷ, and each token's share of the loss
    silence     the tokens since each latent was last active

Shapes: B tokens, L latents, R rows of either, D width, C columns with the bias in them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.device import on_its_device


@on_its_device
def pack(rows_RD: Tensor, bias_R: Tensor | None, out_RC: Tensor) -> Tensor:
    """Write [row, bias, bias − bias rounded], or [row, 1, 1] without a bias, into `out` in its precision."""
    R, D = rows_RD.shape
    if R:
        tile = triton.next_power_of_2(D + 2)
        _pack_kernel[(R,)](rows_RD, out_RC if bias_R is None else bias_R, out_RC, D, rows_RD.stride(0),
                           out_RC.stride(0), BIAS=bias_R is not None, TILE=tile, num_warps=_warps(tile))
    return out_RC


@on_its_device
def residual(decoded_BD: Tensor, b_dec_D: Tensor, target_BD: Tensor, per_token: float) -> Tensor:
    """Overwrite `decoded` with target − (decoded + b_dec); return per_token · ‖error‖² of each token, [B]."""
    B, D = decoded_BD.shape
    loss_B = torch.empty(B, device=decoded_BD.device)
    if B:
        tile = triton.next_power_of_2(max(D, 32))
        _residual_kernel[(B,)](decoded_BD, b_dec_D, target_BD, loss_B, D, target_BD.stride(0), per_token, TILE=tile,
                               num_warps=_warps(tile))
    return loss_B


@on_its_device
def silence(silent_L: Tensor, bounds_L1: Tensor, tokens: int) -> None:
    """Add `tokens` to each latent's count, in place; set it to 0 for a latent with a pair between its bounds."""
    L = len(silent_L)
    if L:
        _silence_kernel[(triton.cdiv(L, 1024),)](silent_L, bounds_L1, L, tokens, TILE=1024)


def _warps(tile: int) -> int:
    return min(16, max(1, tile // 256))


@triton.jit
def _pack_kernel(rows, bias, out, D, stride, out_stride, BIAS: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    value = tl.load(rows + row * stride + column, mask=column < D, other=1.0)
    if BIAS:
        b = tl.load(bias + row)
        rest = b - b.to(out.dtype.element_ty).to(tl.float32)
        value = tl.where(column == D, b, tl.where(column == D + 1, rest, value))
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=column < D + 2)


@triton.jit
def _residual_kernel(decoded, b_dec, target, loss, D, stride, per_token, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    inside = column < D
    there = tl.load(decoded + row * D + column, mask=inside, other=0.0)
    there += tl.load(b_dec + column, mask=inside, other=0.0)
    error = tl.load(target + row * stride + column, mask=inside, other=0.0) - there
    tl.store(decoded + row * D + column, error, mask=inside)
    tl.store(loss + row, tl.sum(error * error, axis=0) * per_token)


@triton.jit
def _silence_kernel(silent, bounds, L, tokens, TILE: tl.constexpr):
    latent = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = latent < L
    begin = tl.load(bounds + latent, mask=inside, other=0)
    end = tl.load(bounds + latent + 1, mask=inside, other=0)
    before = tl.load(silent + latent, mask=inside, other=0)
    tl.store(silent + latent, tl.where(end > begin, 0, before + tokens), mask=inside)
