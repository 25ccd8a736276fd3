"""The products of sparse codes on a GPU: sums over the pairs of a token or of a latent, and dot products of pairs.

    decode             out[token]  = Σ value · W[latent]     pairs sorted by token
    transpose_matmul   out[latent] = Σ value · x[token]      pairs sorted by latent
    sampled_product    out[pair]   = x[token] · W[latent]

The first two are one kernel, a weighted sum of rows for every segment of a sorted list.  A latent that fires on every
token would keep one program busy long after the others.  So a segment is cut into pieces of `_PIECE` pairs: the first
piece writes the row, and the others write rows of their own, which are then added in order.  The same pairs give the
same bits, because nothing is added atomically and no autotuning changes the order of a sum.

Shapes: B tokens, L latents, D width, N selected pairs, S segments, E further pieces.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.device import on_its_device

_PIECE = 128
_UNROLL = 4  # rows loaded before the first of them is needed


@on_its_device
def segment_sums(
    row_N: Tensor, weight_N: Tensor, start_S: Tensor, rows: Tensor, out_SD: Tensor | None = None,
) -> Tensor:
    """Return Σ weight · rows[row] over each segment of a list, [S, D] float32; `start_S` holds each segment's begin.

    The result may be written into `out_SD`.
    """
    n, S, D = len(row_N), len(start_S), rows.shape[1]
    if out_SD is None:
        out_SD = torch.empty(S, D, device=rows.device)
    if not S or not D:
        return out_SD
    start_S = start_S.long()
    end_S = torch.cat([start_S[1:], torch.full((1,), n, dtype=torch.int64, device=rows.device)])
    # Further pieces are ordered by segment; each comes after a full piece, which bounds their number.
    further_S = (end_S - start_S - 1).clamp(min=0) // _PIECE
    last_S = further_S.cumsum(0)
    E = n // _PIECE
    segment_E = torch.searchsorted(last_S, torch.arange(E, device=rows.device), right=True)
    piece_ED = torch.empty(E, D, device=rows.device)
    tile, warps = _tile(D)
    grid = (S + E, triton.cdiv(D, tile))
    _sums_kernel[grid](row_N, weight_N, rows, start_S, end_S, segment_E, last_S, out_SD, piece_ED, S, D,
                       rows.stride(0), PIECE=_PIECE, UNROLL=_UNROLL, TILE=tile, num_warps=warps)
    if E:
        _join_kernel[(S, grid[1])](piece_ED, further_S, last_S, out_SD, D, TILE=tile, num_warps=warps)
    return out_SD


@on_its_device
def sampled_product(token_N: Tensor, latent_N: Tensor, x_BD: Tensor, W_LD: Tensor) -> Tensor:
    """Return x[token] · W[latent] for every pair, [N] float32."""
    n, D = len(token_N), x_BD.shape[1]
    out_N = torch.empty(n, device=x_BD.device)
    if n:
        pairs, even = 4, D & -D  # a tile that divides D wastes no load
        tile = min(512, even if even >= 128 else triton.next_power_of_2(max(D, 16)))
        _dots_kernel[(triton.cdiv(n, pairs),)](token_N, latent_N, x_BD, W_LD, out_N, n, D, x_BD.stride(0),
                                               W_LD.stride(0), PAIRS=pairs, TILE=tile, num_warps=4)
    return out_N


def _tile(D: int) -> tuple[int, int]:
    """Return the columns of a program and its number of warps, so that each thread reads 16 bytes of a row."""
    tile = triton.next_power_of_2(max(D, 32)) if D <= 1024 else 512
    return tile, max(1, tile // 128)


@triton.jit
def _sums_kernel(
    rows_of, weights, rows, starts, ends, segment_of, lasts, out, pieces, S, D, stride,
    PIECE: tl.constexpr, UNROLL: tl.constexpr, TILE: tl.constexpr
):
    """Sum the first piece of every segment in programs 0 … S−1, and the further pieces in the others."""
    program = tl.program_id(0)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < D
    segment, piece = program, 0
    if program >= S:
        segment = tl.load(segment_of + program - S).to(tl.int32)
        if segment < S:  # else there are fewer further pieces than the list has room for
            before = tl.load(lasts + segment - 1, mask=segment > 0, other=0).to(tl.int32)
            piece = program - S - before + 1
    if segment < S:
        begin = tl.load(starts + segment) + piece * PIECE
        end = tl.minimum(tl.load(ends + segment), begin + PIECE)
        total = tl.zeros([TILE], dtype=tl.float32)
        whole = begin + (end - begin) // UNROLL * UNROLL
        for place in range(begin, whole, UNROLL):
            for step in tl.static_range(UNROLL):
                row = tl.load(rows_of + place + step)
                weight = tl.load(weights + place + step)
                total += weight * tl.load(rows + row.to(tl.int64) * stride + column, mask=inside, other=0.0)
        for place in range(whole, end):
            row = tl.load(rows_of + place)
            weight = tl.load(weights + place)
            total += weight * tl.load(rows + row.to(tl.int64) * stride + column, mask=inside, other=0.0)
        target = out + segment.to(tl.int64) * D
        if program >= S:
            target = pieces + (program - S).to(tl.int64) * D
        tl.store(target + column, total, mask=inside)


@triton.jit
def _join_kernel(pieces, further, lasts, out, D, TILE: tl.constexpr):
    """Add each long segment's further pieces to its row, in order."""
    segment = tl.program_id(0).to(tl.int64)
    n = tl.load(further + segment)
    if n > 0:
        column = tl.program_id(1) * TILE + tl.arange(0, TILE)
        inside = column < D
        total = tl.load(out + segment * D + column, mask=inside, other=0.0)
        end = tl.load(lasts + segment)
        for piece in range(end - n, end):
            total += tl.load(pieces + piece * D + column, mask=inside, other=0.0)
        tl.store(out + segment * D + column, total, mask=inside)


@triton.jit
def _dots_kernel(
    tokens, latents, x, W, out, n, D, x_stride, W_stride, PAIRS: tl.constexpr, TILE: tl.constexpr
):
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    token = tl.load(tokens + pair, mask=pair < n, other=0).to(tl.int64)
    latent = tl.load(latents + pair, mask=pair < n, other=0).to(tl.int64)
    total = tl.zeros([PAIRS, TILE], dtype=tl.float32)
    for start in range(0, D, TILE):
        column = start + tl.arange(0, TILE)
        inside = (pair < n)[:, None] & (column < D)[None, :]
        left = tl.load(x + token[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        right = tl.load(W + latent[:, None] * W_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        total += left * right
    tl.store(out + pair, tl.sum(total, axis=1), mask=pair < n)
