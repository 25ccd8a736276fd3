"""The products of sparse codes on a GPU: sums over the pairs of a token or of a latent, and dot products of pairs.

    decode             out[token]  = Σ value · W[latent]     pairs sorted by token
    transpose_matmul   out[latent] = Σ value · x[token]      pairs sorted by latent
    sampled_product    out[pair]   = x[token] · W[latent]

The first two are one kernel, a weighted sum of rows for every segment of a sorted list.  A latent that fires on every
token would keep one program busy long after the others.  So a segment is cut at every multiple of `_PIECE` in the
list: its first piece writes the row, and each further piece writes a row of its own; then these are added in order.
The cuts need no list of pieces: the segment of a cut is the key of the pair there.  The same pairs give the same
bits, because nothing is added atomically and no autotuning changes the order of a sum.

Empty pairs (`Codes.padded`) are after the end of the last segment.

Shapes: B tokens, L latents, D width, N selected pairs, S segments, E cuts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.device import on_its_device

_PIECE = 128
_UNROLL = 4  # rows loaded before the first of them is needed


def segment_sums(
    row_N: Tensor | None, weight_N: Tensor, bounds_S1: Tensor, key_N: Tensor, rows: Tensor,
    order_N: Tensor | None = None, out_SD: Tensor | None = None, scale: float = 1.0,
) -> Tensor:
    """Return scale · Σ weight · rows[row] over each segment of a list, [S, D] float32.

    `bounds_S1` holds the begin of each segment, and the end of the last one; `key_N` the segment of each pair of the
    list.  `order_N` lists the pairs of `row_N` and `weight_N`; without it they are in their order.  Without `row_N`
    the only row is taken.  The result may be written into `out_SD`.
    """
    n, S, D = len(weight_N), len(bounds_S1) - 1, rows.shape[1]
    if out_SD is None:
        out_SD = torch.empty(S, D, device=rows.device)
    if S and D:
        _launch(row_N, weight_N, bounds_S1, key_N, rows, order_N, out_SD, scale, n, S, D)
    return out_SD


def _launch(
    row_N: Tensor | None, weight_N: Tensor, bounds_S1: Tensor, key_N: Tensor, rows: Tensor, order_N: Tensor | None,
    out_SD: Tensor, scale: float, n: int, S: int, D: int,
) -> None:
    E = max(0, -(-n // _PIECE) - 1)
    piece_ED = torch.empty(E, D, device=rows.device)
    tile, warps = _tile(D)
    grid = (S + E, triton.cdiv(D, tile))
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        _sums_kernel[grid](
            weight_N if row_N is None else row_N, weight_N, weight_N if order_N is None else order_N, key_N, rows,
            bounds_S1, out_SD, piece_ED, S, D, rows.stride(0), scale, ONE_ROW=row_N is None,
            ORDERED=order_N is not None, PIECE=_PIECE, UNROLL=_UNROLL, TILE=tile, num_warps=warps)
        if E:
            _join_kernel[(S, grid[1])](piece_ED, bounds_S1, out_SD, D, PIECE=_PIECE, TILE=tile, num_warps=warps)


@on_its_device
def sampled_product(
    token_N: Tensor, latent_N: Tensor, x_BD: Tensor, W_LD: Tensor, scale: float = 1.0
) -> Tensor:
    """Return scale · x[token] · W[latent] for every pair, [N] float32; 0 for an empty pair."""
    n, (B, D) = len(token_N), x_BD.shape
    out_N = torch.empty(n, device=x_BD.device)
    if n:
        pairs, even = 4, D & -D  # a tile that divides D wastes no load
        tile = min(512, even if even >= 128 else triton.next_power_of_2(max(D, 16)))
        _dots_kernel[(triton.cdiv(n, pairs),)](token_N, latent_N, x_BD, W_LD, out_N, n, B, D, x_BD.stride(0),
                                               W_LD.stride(0), scale, PAIRS=pairs, TILE=tile, num_warps=4)
    return out_N


def _tile(D: int) -> tuple[int, int]:
    """Return the columns of a program and its number of warps, so that each thread reads 16 bytes of a row."""
    tile = triton.next_power_of_2(max(D, 32)) if D <= 1024 else 512
    return tile, max(1, tile // 128)


@triton.jit
def _row(
    rows_of, weights, order, rows, place, stride, column, inside, ONE_ROW: tl.constexpr, ORDERED: tl.constexpr
):
    """Return one pair's weight times its row."""
    pair = place
    if ORDERED:
        pair = tl.load(order + place)
    weight = tl.load(weights + pair)
    source = rows if ONE_ROW else rows + tl.load(rows_of + pair).to(tl.int64) * stride
    return weight * tl.load(source + column, mask=inside, other=0.0)


@triton.jit
def _sums_kernel(
    rows_of, weights, order, keys, rows, bounds, out, pieces, S, D, stride, scale, ONE_ROW: tl.constexpr,
    ORDERED: tl.constexpr, PIECE: tl.constexpr, UNROLL: tl.constexpr, TILE: tl.constexpr
):
    """Sum the first piece of every segment in programs 0 … S−1, and the piece after each cut in the others."""
    program = tl.program_id(0)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < D
    begin, end = 0, 0
    target = out + program.to(tl.int64) * D
    wanted = program < S
    if wanted:
        begin = tl.load(bounds + program).to(tl.int32)
        end = tl.minimum(tl.load(bounds + program + 1).to(tl.int32), (begin // PIECE + 1) * PIECE)
    else:
        begin = (program - S + 1) * PIECE
        if begin < tl.load(bounds + S).to(tl.int32):
            segment = tl.load(keys + begin).to(tl.int32)
            wanted = tl.load(bounds + segment).to(tl.int32) < begin
            end = tl.minimum(tl.load(bounds + segment + 1).to(tl.int32), begin + PIECE)
            target = pieces + (program - S).to(tl.int64) * D
    if wanted:
        total = tl.zeros([TILE], dtype=tl.float32)
        whole = begin + tl.maximum(end - begin, 0) // UNROLL * UNROLL
        for place in range(begin, whole, UNROLL):
            for step in tl.static_range(UNROLL):
                total += _row(rows_of, weights, order, rows, place + step, stride, column, inside, ONE_ROW, ORDERED)
        for place in range(whole, end):
            total += _row(rows_of, weights, order, rows, place, stride, column, inside, ONE_ROW, ORDERED)
        tl.store(target + column, total * scale, mask=inside)


@triton.jit
def _join_kernel(pieces, bounds, out, D, PIECE: tl.constexpr, TILE: tl.constexpr):
    """Add the further pieces of each segment to its row, in order."""
    segment = tl.program_id(0).to(tl.int64)
    begin = tl.load(bounds + segment).to(tl.int32)
    end = tl.load(bounds + segment + 1).to(tl.int32)
    if end > (begin // PIECE + 1) * PIECE:
        column = tl.program_id(1) * TILE + tl.arange(0, TILE)
        inside = column < D
        total = tl.load(out + segment * D + column, mask=inside, other=0.0)
        for cut in range(begin // PIECE, (end - 1) // PIECE):
            total += tl.load(pieces + (segment * 0 + cut) * D + column, mask=inside, other=0.0)  # in 64 bits
        tl.store(out + segment * D + column, total, mask=inside)


@triton.jit
def _dots_kernel(
    tokens, latents, x, W, out, n, B, D, x_stride, W_stride, scale, PAIRS: tl.constexpr, TILE: tl.constexpr
):
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    token = tl.load(tokens + pair, mask=pair < n, other=B).to(tl.int64)
    latent = tl.load(latents + pair, mask=pair < n, other=0).to(tl.int64)
    real = token < B
    total = tl.zeros([PAIRS, TILE], dtype=tl.float32)
    for start in range(0, D, TILE):
        column = start + tl.arange(0, TILE)
        inside = real[:, None] & (column < D)[None, :]
        left = tl.load(x + token[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        right = tl.load(W + latent[:, None] * W_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        total += left * right
    tl.store(out + pair, tl.sum(total, axis=1) * scale, mask=pair < n)
