"""Exact selection on a GPU without sorting the batch, in one pass over the pre-activations.

1. The pre-activations [B, L] are read once, for the maxima of runs of G neighbouring latents.
2. The n-th largest of the maxima is a lower bound of the n-th largest entry.  For the whole batch it is found by
   counting bit patterns digit by digit (positive floats order as their bits do), for each token by bisection of
   the bits.
3. Only runs whose maximum reaches the bound are read again, a few per cent of the batch.
4. The exact cut among their entries is found in the same way.  Ties at the cut go to the lowest (token, latent).

BatchTopK never makes the host wait: it returns exactly as many pairs as were asked for, of which the last are empty
if fewer entries are positive (`Codes.padded`).  The other selections wait once, for the number of candidates.  No
floats are added, so the result does not depend on the order in which programs run.

Shapes: B tokens, L latents, G latents in a run, R runs in a row, N selected pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.device import on_its_device
from sae.kernels.triton_batch_topk import batch_topk_pairs

_DIGITS = ((20, 11), (9, 11), (0, 9))  # shift and width of the digits of the 31 bits of a positive float32
_ROW_TILE = 1024


@on_its_device
def batch_topk(pre_BL: Tensor, n_keep: int, *, padded: bool = False) -> Codes:
    """Return the `n_keep` largest positive entries of the whole batch, like `sae.kernels.select.batch_topk`.

    If `padded`, the host does not wait, and the last pairs are empty if fewer entries are positive.
    """
    B, L = pre_BL.shape
    n_keep = min(n_keep, B * L)
    maxima_BR = _maxima(pre_BL, run_length(L, n_keep / B) if B else 16)
    token_N, latent_N, value_N, bounds_B1 = batch_topk_pairs(pre_BL, maxima_BR, n_keep)
    if not padded:
        n = int(bounds_B1[-1])
        token_N, latent_N, value_N = token_N[:n], latent_N[:n], value_N[:n]
    return Codes(token_N, latent_N, value_N, B, L, padded, {"bounds_B1": bounds_B1})


@on_its_device
def row_topk(pre_BL: Tensor, k: int, *, padded: bool = False) -> Codes:
    """Return the k largest positive entries of every row; ties go to the lowest latents.

    If `padded`, the host waits once instead of twice, and the last pairs may be empty.
    """
    B, L = pre_BL.shape
    maxima_BR = _maxima(pre_BL, run_length(L, k))
    R = maxima_BR.shape[1]
    bound_B = torch.empty(B, device=pre_BL.device)
    if B:
        _row_bound_kernel[(B,)](maxima_BR, bound_B, R, min(k, R), k, R_TILE=triton.next_power_of_2(R))
    flat_N, value_N = _reach(pre_BL, maxima_BR, bound_B[:, None].expand(B, L))
    candidates = Codes.from_flat(flat_N, value_N, B, L)
    keep_N = strongest_of_rows(candidates, k)
    return candidates.kept(keep_N, min(k * B, len(flat_N))) if padded else candidates.where(keep_N)


def strongest(codes: Codes, n: int) -> Tensor:
    """Return which pairs are among the n strongest, [N]; ties go to the first pairs.  The host does not wait."""
    bits_N, cut = codes.value_N.view(torch.int32), kth_largest_bits(codes.value_N, n)
    above_N, tied_N = bits_N > cut, bits_N == cut
    return above_N | (tied_N & (tied_N.cumsum(0) <= n - above_N.sum()))


def strongest_of_rows(codes: Codes, k: int) -> Tensor:
    """Return which pairs are among the k strongest of their token, [N]; ties go to the first.  The host does not wait.
    """
    keep_N = torch.zeros(len(codes.value_N), dtype=torch.int8, device=codes.value_N.device)
    if len(keep_N):
        with torch.cuda.device_of(keep_N):  # type: ignore[no-untyped-call]
            _row_keep_kernel[(codes.n_tokens,)](codes.value_N, codes.bounds_B1, keep_N, k, TILE=_ROW_TILE)
    return keep_N.bool()


@on_its_device
def entries_above(pre_BL: Tensor, bound: Tensor | float) -> Codes:
    """Return every entry strictly above `bound`, which may be negative.

    `bound` is one number, one per latent [L] or one per token [B, 1].
    """
    B, L = pre_BL.shape
    if not isinstance(bound, Tensor) or (bound.ndim == 0 and not bound.is_cuda):  # a copy to the device would wait
        bound = torch.full((), float(bound), device=pre_BL.device)
    bound_BL = bound.float().expand(B, L)
    return Codes.from_flat(*_reach(pre_BL, None, bound_BL), B, L)


def run_length(L: int, kept_per_row: float) -> int:
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


@on_its_device
def kth_largest_bits(value_N: Tensor, k: int) -> Tensor:
    """Return the bit pattern of the k-th largest of the positive float32 values, as an int32 of shape [].

    If there are fewer values, it is the pattern of the smallest; if there is none, one above the pattern of every
    float.  The host does not wait.
    """
    state = torch.full((2,), k, dtype=torch.int32, device=value_N.device)  # the digits found, the rank that is left
    state[0].zero_()
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
    positive and reaches the bound, which must be the same on a whole row.  The host waits once, for their number.
    """
    B, L = pre_BL.shape
    R = triton.cdiv(L, 64) if maxima_BR is None else maxima_BR.shape[1]
    G = 64 if maxima_BR is None else triton.next_power_of_2(triton.cdiv(L, R))
    runs, n_runs = 2048 // G, B * R

    def launch(kernel: Any, skip: Tensor, out: tuple[Tensor, ...], by_count: bool) -> None:
        kernel[(triton.cdiv(n_runs, runs),)](
            pre_BL, skip, bound_BL, *out, n_runs, L, R, pre_BL.stride(0), *bound_BL.stride(),
            AT_LEAST=maxima_BR is not None, BY_COUNT=by_count, G=G, RUNS=runs)

    count_C = torch.empty(n_runs, dtype=torch.int32, device=pre_BL.device)
    if n_runs:  # without maxima, all runs are counted
        launch(_count_kernel, count_C if maxima_BR is None else maxima_BR, (count_C,), False)
    end_C = count_C.cumsum(0)
    n = int(end_C[-1]) if n_runs else 0
    flat_N = torch.empty(n, dtype=torch.int64, device=pre_BL.device)
    value_N = torch.empty(n, device=pre_BL.device)
    if n:  # a run in which nothing was found is not read again
        launch(_write_kernel, count_C, (end_C, flat_N, value_N), True)
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
    pre, skip, bounds, n_runs, L, R, stride, by_row, by_latent,
    AT_LEAST: tl.constexpr, BY_COUNT: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    """Return the flat index, the value and a flag (selected or not) for each entry of a tile of runs.

    `skip` holds the count of each run if BY_COUNT, else its maximum if AT_LEAST; else no run is skipped.
    """
    run = tl.program_id(0).to(tl.int64) * RUNS + tl.arange(0, RUNS)
    live = run < n_runs
    row = run // R
    if BY_COUNT:
        live = live & (tl.load(skip + run, mask=live, other=0) > 0)
    elif AT_LEAST:
        top = tl.load(skip + run, mask=live, other=0.0)
        live = live & (top > 0) & (top >= tl.load(bounds + row * by_row, mask=live, other=0.0))
    latent = ((run % R) * G)[:, None] + tl.arange(0, G)[None, :]
    inside = (latent < L) & live[:, None]
    value = tl.load(pre + row[:, None] * stride + latent, mask=inside, other=0.0).to(tl.float32)
    bound = tl.load(bounds + row[:, None] * by_row + latent * by_latent, mask=inside, other=0.0)
    hit = inside & (((value > 0) & (value >= bound)) if AT_LEAST else (value > bound))
    return run, row[:, None] * L + latent, value, hit


@triton.jit
def _count_kernel(
    pre, skip, bounds, count, n_runs, L, R, stride, by_row, by_latent,
    AT_LEAST: tl.constexpr, BY_COUNT: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    run, _, _, hit = _hits(pre, skip, bounds, n_runs, L, R, stride, by_row, by_latent, AT_LEAST, BY_COUNT, G, RUNS)
    tl.store(count + run, tl.sum(hit.to(tl.int32), axis=1), mask=run < n_runs)


@triton.jit
def _write_kernel(
    pre, skip, bounds, ends, flat_out, value_out, n_runs, L, R, stride, by_row, by_latent,
    AT_LEAST: tl.constexpr, BY_COUNT: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    run, flat, value, hit = _hits(pre, skip, bounds, n_runs, L, R, stride, by_row, by_latent, AT_LEAST, BY_COUNT, G,
                                  RUNS)
    end = tl.load(ends + run, mask=run < n_runs, other=0)
    number = tl.cumsum(hit.to(tl.int32), axis=1)
    target = (end - tl.sum(hit.to(tl.int32), axis=1))[:, None] + number - 1
    tl.store(flat_out + target, flat, mask=hit)
    tl.store(value_out + target, value, mask=hit)
