"""Exact selection on a GPU without sorting the batch, in one pass over the pre-activations.

1. The pre-activations [B, L] are read once, for the maxima of runs of G neighbouring latents.
2. The n-th largest of the maxima is a lower bound of the n-th largest entry.  For the whole batch it is found by
   counting bit patterns digit by digit (positive floats order as their bits do), for each token by bisection of
   the bits.
3. Only runs whose maximum reaches the bound are read again, a few per cent of the batch.  The entries that reach
   the bound, hardly more than n, are written out in the order (token, latent).
4. The exact cut among those entries is found in the same way.  Ties at the cut go to the lowest (token, latent).

No floats are added, so the result does not depend on the order in which programs run.

Shapes: B tokens, L latents, G latents in a run, R runs in a row, C runs read again, N selected pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.device import on_its_device

_DIGITS = ((20, 11), (9, 11), (0, 9))  # shift and width of the digits of the 31 bits of a positive float32
_ROW_TILE = 1024


@on_its_device
def batch_topk(pre_BL: Tensor, n_keep: int) -> Codes:
    """Return the `n_keep` largest positive entries of the whole batch, like `sae.kernels.select.batch_topk`."""
    B, L = pre_BL.shape
    n_keep = min(n_keep, B * L)
    maxima_BR = _maxima(pre_BL, _run_length(L, n_keep / B))
    bound = _kth_largest_bits(maxima_BR.reshape(-1), n_keep).view(torch.float32)
    # With fewer positive runs than n_keep, their smallest maximum is no bound.
    bound = torch.where((maxima_BR > 0).sum() >= n_keep, bound, 0.0)
    flat_N, value_N = _reach(pre_BL, maxima_BR, bound.expand(B, L))
    bits_N, cut = value_N.view(torch.int32), _kth_largest_bits(value_N, n_keep)
    above_N, tied_N = bits_N > cut, bits_N == cut
    keep_N = above_N | (tied_N & (tied_N.cumsum(0) <= n_keep - above_N.sum()))
    return Codes.from_flat(flat_N[keep_N], value_N[keep_N], B, L)


@on_its_device
def row_topk(pre_BL: Tensor, k: int) -> Codes:
    """Return the k largest positive entries of every row; ties go to the lowest latents."""
    B, L = pre_BL.shape
    maxima_BR = _maxima(pre_BL, _run_length(L, k))
    R = maxima_BR.shape[1]
    bound_B = torch.empty(B, device=pre_BL.device)
    if B:
        _row_bound_kernel[(B,)](maxima_BR, bound_B, R, min(k, R), k, R_TILE=triton.next_power_of_2(R))
    flat_N, value_N = _reach(pre_BL, maxima_BR, bound_B[:, None].expand(B, L))
    token_N = torch.div(flat_N, L, rounding_mode="floor")
    start_B = torch.searchsorted(token_N, torch.arange(B + 1, device=token_N.device))
    keep_N = torch.empty(len(flat_N), dtype=torch.int8, device=pre_BL.device)
    if len(flat_N):
        _row_keep_kernel[(B,)](value_N, start_B, keep_N, k, TILE=_ROW_TILE)
    keep = keep_N.bool()
    return Codes.from_flat(flat_N[keep], value_N[keep], B, L)


@on_its_device
def entries_above(pre_BL: Tensor, bound: Tensor | float) -> Codes:
    """Return every entry strictly above `bound`, which may be negative.

    `bound` is one number, one per latent [L] or one per token [B, 1].
    """
    B, L = pre_BL.shape
    bound_BL = torch.as_tensor(bound, dtype=torch.float32, device=pre_BL.device).expand(B, L)
    return Codes.from_flat(*_reach(pre_BL, None, bound_BL), B, L)


def _run_length(L: int, kept_per_row: float) -> int:
    """Return the number of latents in a run: 16 to 128, so that a row has about eight times as many runs as kept
    entries.
    """
    wanted = max(1, int(L / (8 * max(kept_per_row, 1))))
    return int(min(128, max(16, 1 << (wanted.bit_length() - 1))))


def _maxima(pre_BL: Tensor, G: int) -> Tensor:
    """Return the largest entry of every run, [B, R] float32."""
    B, L = pre_BL.shape
    R = triton.cdiv(L, G)
    out_BR = torch.empty(B, R, device=pre_BL.device)
    runs = 8192 // G
    if B * R:
        _maxima_kernel[(B, triton.cdiv(R, runs))](pre_BL, out_BR, L, R, pre_BL.stride(0), G=G, RUNS=runs, num_warps=8)
    return out_BR


def _kth_largest_bits(value_N: Tensor, k: int) -> Tensor:
    """Return the bit pattern of the k-th largest of the positive float32 values, as an int32 of shape [].

    If there are fewer values, it is the pattern of the smallest; if there is none, one above the pattern of every
    float.  The host does not wait.
    """
    state = torch.tensor([0, k], dtype=torch.int32, device=value_N.device)  # the digits found, the rank that is left
    for shift, width in _DIGITS:
        count = torch.zeros(1 << width, dtype=torch.int32, device=value_N.device)
        if len(value_N):
            grid = (min(triton.cdiv(len(value_N), 2048), 1024),)
            _digit_kernel[grid](value_N, count, state, len(value_N), SHIFT=shift, WIDTH=width, TILE=2048, num_warps=8)
        _pick_kernel[(1,)](count, state, WIDTH=width)
    return state[0]


def _reach(pre_BL: Tensor, maxima_BR: Tensor | None, bound_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flat indices, ascending, and the values of the entries above a bound (expanded, not stored).

    Given the maxima of runs, only runs that can contain such an entry are read.  An entry is then taken if it is
    positive and reaches the bound, which must be the same on a whole row.
    """
    B, L = pre_BL.shape
    R = triton.cdiv(L, 64) if maxima_BR is None else maxima_BR.shape[1]
    G = 64 if maxima_BR is None else triton.next_power_of_2(triton.cdiv(L, R))
    if maxima_BR is None:
        run_C = torch.arange(B * R, device=pre_BL.device)
    else:
        run_C = ((maxima_BR >= bound_BL[:, :1]) & (maxima_BR > 0)).reshape(-1).nonzero().squeeze(1)

    def launch(kernel: Any, runs_C: Tensor, out: tuple[Tensor, ...]) -> None:
        if len(runs_C):
            runs = 2048 // G
            kernel[(triton.cdiv(len(runs_C), runs),)](
                pre_BL, runs_C, bound_BL, *out, len(runs_C), L, R, pre_BL.stride(0), *bound_BL.stride(),
                AT_LEAST=maxima_BR is not None, G=G, RUNS=runs)

    count_C = torch.empty(len(run_C), dtype=torch.int32, device=pre_BL.device)
    launch(_count_kernel, run_C, (count_C,))
    if maxima_BR is None:  # a run in which nothing fires is not read again
        some = count_C.nonzero().squeeze(1)
        run_C, count_C = run_C[some], count_C[some]
    end_C = count_C.cumsum(0)
    n = int(end_C[-1]) if len(end_C) else 0
    flat_N = torch.empty(n, dtype=torch.int64, device=pre_BL.device)
    value_N = torch.empty(n, device=pre_BL.device)
    launch(_write_kernel, run_C, (end_C - count_C, flat_N, value_N))
    return flat_N, value_N


@triton.jit
def _maxima_kernel(pre, out, L, R, stride, G: tl.constexpr, RUNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    run = tl.program_id(1) * RUNS + tl.arange(0, RUNS)
    latent = run[:, None] * G + tl.arange(0, G)[None, :]
    value = tl.load(pre + row * stride + latent, mask=latent < L, other=float("-inf")).to(tl.float32)
    tl.store(out + row * R + run, tl.max(value, axis=1), mask=run < R)


@triton.jit
def _digit_kernel(
    values, count, state, n, SHIFT: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr
):
    """Count one digit of the values whose higher digits equal those found so far."""
    found = tl.load(state)
    total = tl.zeros([1 << WIDTH], dtype=tl.int32)
    for start in range(tl.program_id(0) * TILE, n, tl.num_programs(0) * TILE):
        place = start + tl.arange(0, TILE)
        value = tl.load(values + place, mask=place < n, other=0.0)
        bits = value.to(tl.int32, bitcast=True)
        matches = (value > 0) & ((bits >> (SHIFT + WIDTH)) == found)
        total += tl.histogram((bits >> SHIFT) & ((1 << WIDTH) - 1), 1 << WIDTH, mask=matches)
    tl.atomic_add(count + tl.arange(0, 1 << WIDTH), total, mask=total > 0)


@triton.jit
def _pick_kernel(count, state, WIDTH: tl.constexpr):
    """Choose the digit that contains the k-th largest value, and reduce k to its rank among the values with this
    digit.
    """
    digit = tl.arange(0, 1 << WIDTH)
    here = tl.load(count + digit)
    total = tl.sum(here, axis=0)
    left = tl.minimum(tl.load(state + 1), total)
    at_least = total - tl.cumsum(here, axis=0) + here
    chosen = tl.sum((at_least >= left).to(tl.int32), axis=0) - 1
    above = tl.sum(tl.where(digit > chosen, here, 0), axis=0)
    tl.store(state, (tl.load(state) << WIDTH) | chosen)
    tl.store(state + 1, left - above)


@triton.jit
def _row_bound_kernel(maxima, bound, R, n, k, R_TILE: tl.constexpr):
    """Find the k-th largest maximum of a row bit by bit; store 0 if a row has fewer positive runs than k."""
    row = tl.program_id(0).to(tl.int64)
    run = tl.arange(0, R_TILE)
    value = tl.load(maxima + row * R + run, mask=run < R, other=0.0)
    bits = tl.where(value > 0, value, 0.0).to(tl.int32, bitcast=True)
    cut = 0
    for step in range(31):
        trial = cut | (1 << (30 - step))
        cut = tl.where(tl.sum((bits >= trial).to(tl.int32), axis=0) >= n, trial, cut)
    cut = tl.where(n < k, 0, cut)
    tl.store(bound + row, cut.to(tl.float32, bitcast=True))


@triton.jit
def _row_keep_kernel(values, starts, keep, k, TILE: tl.constexpr):
    """Mark the k largest candidates of each row.  A row's candidates are contiguous and ordered by latent."""
    row = tl.program_id(0)
    start, end = tl.load(starts + row), tl.load(starts + row + 1)
    cut = 0
    for step in range(31):
        trial = cut | (1 << (30 - step))
        n = 0
        for tile in range(start, end, TILE):
            place = tile + tl.arange(0, TILE)
            bits = tl.load(values + place, mask=place < end, other=0.0).to(tl.int32, bitcast=True)
            n += tl.sum((bits >= trial).to(tl.int32), axis=0)
        cut = tl.where(n >= k, trial, cut)
    above = 0
    for tile in range(start, end, TILE):
        place = tile + tl.arange(0, TILE)
        bits = tl.load(values + place, mask=place < end, other=0.0).to(tl.int32, bitcast=True)
        above += tl.sum((bits > cut).to(tl.int32), axis=0)
    ties = 0
    for tile in range(start, end, TILE):
        place = tile + tl.arange(0, TILE)
        bits = tl.load(values + place, mask=place < end, other=0.0).to(tl.int32, bitcast=True)
        tied = ((bits == cut) & (place < end)).to(tl.int32)
        number = ties + tl.cumsum(tied, axis=0)
        stays = (bits > cut) | ((tied == 1) & (number <= k - above))
        tl.store(keep + place, stays.to(tl.int8), mask=place < end)
        ties += tl.sum(tied, axis=0)


@triton.jit
def _hits(
    pre, runs, bounds, n_runs, L, R, stride, by_row, by_latent,
    AT_LEAST: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    """Return the flat index, the value and a flag (selected or not) for each entry of a tile of runs."""
    place = tl.program_id(0) * RUNS + tl.arange(0, RUNS)
    run = tl.load(runs + place, mask=place < n_runs, other=0)
    row = (run // R)[:, None]
    latent = ((run % R) * G)[:, None] + tl.arange(0, G)[None, :]
    inside = (latent < L) & (place < n_runs)[:, None]
    value = tl.load(pre + row * stride + latent, mask=inside, other=0.0).to(tl.float32)
    bound = tl.load(bounds + row * by_row + latent * by_latent, mask=inside, other=0.0)
    hit = inside & (((value > 0) & (value >= bound)) if AT_LEAST else (value > bound))
    return place, row * L + latent, value, hit


@triton.jit
def _count_kernel(
    pre, runs, bounds, count, n_runs, L, R, stride, by_row, by_latent,
    AT_LEAST: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    place, _, _, hit = _hits(pre, runs, bounds, n_runs, L, R, stride, by_row, by_latent, AT_LEAST, G, RUNS)
    tl.store(count + place, tl.sum(hit.to(tl.int32), axis=1), mask=place < n_runs)


@triton.jit
def _write_kernel(
    pre, runs, bounds, starts, flat_out, value_out, n_runs, L, R, stride, by_row, by_latent,
    AT_LEAST: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    place, flat, value, hit = _hits(pre, runs, bounds, n_runs, L, R, stride, by_row, by_latent, AT_LEAST, G, RUNS)
    start = tl.load(starts + place, mask=place < n_runs, other=0)
    target = start[:, None] + tl.cumsum(hit.to(tl.int32), axis=1) - 1
    tl.store(flat_out + target, flat, mask=hit)
    tl.store(value_out + target, value, mask=hit)
