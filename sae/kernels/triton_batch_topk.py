"""BatchTopK's selection on a GPU, given the maxima of runs: a chain of kernels in which the host waits for nothing.

    bound    the n-th largest maximum, rounded down to its leading digits
    cut      the n-th largest entry, by digits, of the entries that reach the bound
    rows     for each token: how many entries are above the cut, and how many equal it
    starts   where each token's pairs begin; ties are given out in the order (token, latent)
    write    the pairs, in that order

A digit's kernel begins by choosing the digits before it from their counts, so that a choice needs no launch.  A run
is read only if its maximum reaches the bound.

Shapes: B tokens, L latents, G latents in a run, R runs in a row, N pairs to keep.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Shift and width of the digits of a positive number's bits: of bfloat16, which has zeros below bit 16, and of float32.
_DIGITS = {torch.bfloat16: ((23, 8), (16, 7), (16, 0)), torch.float32: ((20, 11), (9, 11), (0, 9))}
_PROGRAMS = 1024  # most programs of a kernel that counts digits
_TILE = 2048  # entries that a program looks at together


def batch_topk_pairs(pre_BL: Tensor, maxima_BR: Tensor, n_keep: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (token [N], latent [N], value [N], start of each token's pairs and their end [B + 1]).

    Pairs after the end are empty: token B, latent L, value 0.
    """
    (B, L), R, device = pre_BL.shape, maxima_BR.shape[1], pre_BL.device
    token_N, latent_N = (torch.empty(n_keep, dtype=torch.int64, device=device) for _ in range(2))
    value_N = torch.empty(n_keep, device=device)
    bounds_B1 = torch.empty(B + 1, dtype=torch.int64, device=device)
    if not B:
        return token_N, latent_N, value_N, bounds_B1.zero_()
    digits = _DIGITS[pre_BL.dtype]
    S0, W0, S1, W1, S2, W2 = (number for digit in digits for number in digit)
    width = 1 << max(W0, W1, W2)
    counts = torch.zeros(5, width, dtype=torch.int32, device=device)
    G = triton.next_power_of_2(triton.cdiv(L, R))
    tile = _TILE // G
    shape = (S0, W0, S1, W1, S2, W2, width)
    for number in range(2):
        _maxima_digit_kernel[(min(triton.cdiv(B * R, _TILE), _PROGRAMS),)](
            maxima_BR, counts, B * R, n_keep, *shape, NUMBER=number, TILE=_TILE, num_warps=8)
    for number in range(3 if W2 else 2):
        _entry_digit_kernel[(min(triton.cdiv(B * R, tile), _PROGRAMS),)](
            pre_BL, maxima_BR, counts, n_keep, B * R, L, R, pre_BL.stride(0), *shape, NUMBER=number, G=G, RUNS=tile,
            num_warps=8)
    above_B, tied_B = (torch.empty(B, dtype=torch.int32, device=device) for _ in range(2))
    _row_count_kernel[(B,)](pre_BL, maxima_BR, counts, above_B, tied_B, n_keep, L, R, pre_BL.stride(0), *shape, G=G,
                            RUNS=tile)
    _starts_kernel[(1,)](counts, above_B, tied_B, bounds_B1, n_keep, B, *shape, TILE=1024)
    _row_write_kernel[(B + 1,)](pre_BL, maxima_BR, counts, tied_B, bounds_B1, token_N, latent_N, value_N, n_keep, B, L,
                                R, pre_BL.stride(0), *shape, G=G, RUNS=tile)
    return token_N, latent_N, value_N, bounds_B1


@triton.jit
def _pick(count, rank, WIDTH: tl.constexpr):
    """Return the digit of the rank-th largest value, its rank among the values with this digit, and all values."""
    digit = tl.arange(0, 1 << WIDTH)
    here = tl.load(count + digit)
    total = tl.sum(here, axis=0)
    left = tl.minimum(rank, total)
    at_least = total - tl.cumsum(here, axis=0) + here
    chosen = tl.sum((at_least >= left).to(tl.int32), axis=0) - 1
    return chosen, left - tl.sum(tl.where(digit > chosen, here, 0), axis=0), total


@triton.jit
def _bound(counts, n, S0: tl.constexpr, W0: tl.constexpr, S1: tl.constexpr, W1: tl.constexpr, WIDTH: tl.constexpr):
    """Return a lower bound of the n-th largest entry, from the maxima's counts; 0 if fewer maxima are positive."""
    first, rank, total = _pick(counts, n, W0)
    second, _, _ = _pick(counts + WIDTH, rank, W1)
    bits = tl.where(total >= n, (first << S0) | (second << S1), 0)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _cut(counts, n, S0: tl.constexpr, W0: tl.constexpr, S1: tl.constexpr, W1: tl.constexpr, S2: tl.constexpr,
         W2: tl.constexpr, WIDTH: tl.constexpr):
    """Return the bits of the n-th largest entry and how many of the entries equal to it are kept."""
    first, rank, _ = _pick(counts + 2 * WIDTH, n, W0)
    second, rank, _ = _pick(counts + 3 * WIDTH, rank, W1)
    bits = (first << S0) | (second << S1)
    if W2 > 0:
        third, rank, _ = _pick(counts + 4 * WIDTH, rank, W2)
        bits = bits | (third << S2)
    return bits, rank


@triton.jit
def _maxima_digit_kernel(
    maxima, counts, total, n, S0: tl.constexpr, W0: tl.constexpr, S1: tl.constexpr, W1: tl.constexpr,
    S2: tl.constexpr, W2: tl.constexpr, WIDTH: tl.constexpr, NUMBER: tl.constexpr, TILE: tl.constexpr
):
    """Count one digit of the positive maxima whose higher digits equal those of the n-th largest."""
    SHIFT: tl.constexpr = S0 if NUMBER == 0 else S1
    BITS: tl.constexpr = W0 if NUMBER == 0 else W1
    found = 0
    if NUMBER == 1:
        found, _, _ = _pick(counts, n, W0)
    number = tl.zeros([1 << BITS], dtype=tl.int32)
    for start in range(tl.program_id(0) * TILE, total, tl.num_programs(0) * TILE):
        place = start + tl.arange(0, TILE)
        value = tl.load(maxima + place, mask=place < total, other=0.0)
        bits = value.to(tl.int32, bitcast=True)
        matches = (value > 0) & ((bits >> (SHIFT + BITS)) == found)
        number += tl.histogram((bits >> SHIFT) & ((1 << BITS) - 1), 1 << BITS, mask=matches)
    tl.atomic_add(counts + NUMBER * WIDTH + tl.arange(0, 1 << BITS), number, mask=number > 0)


@triton.jit
def _entries(pre, maxima, bound, run, n_runs, L, R, stride, G: tl.constexpr, RUNS: tl.constexpr):
    """Return the entries [RUNS · G] of some runs, in order, 0 for those below the bound; the row and the latents."""
    inside = run < n_runs
    top = tl.load(maxima + run, mask=inside, other=0.0)
    live = inside & (top > 0) & (top >= bound)
    latent = ((run % R) * G)[:, None] + tl.arange(0, G)[None, :]
    place = pre + (run // R).to(tl.int64)[:, None] * stride + latent
    value = tl.load(place, mask=live[:, None] & (latent < L), other=0.0).to(tl.float32)
    value = tl.where((value > 0) & (value >= bound), value, 0.0)
    return tl.reshape(value, [RUNS * G]), tl.reshape(latent, [RUNS * G])


@triton.jit
def _entry_digit_kernel(
    pre, maxima, counts, n, n_runs, L, R, stride, S0: tl.constexpr, W0: tl.constexpr, S1: tl.constexpr,
    W1: tl.constexpr, S2: tl.constexpr, W2: tl.constexpr, WIDTH: tl.constexpr, NUMBER: tl.constexpr, G: tl.constexpr,
    RUNS: tl.constexpr
):
    """Count one digit of the entries that reach the bound and whose higher digits equal those of the n-th largest."""
    SHIFT: tl.constexpr = S0 if NUMBER == 0 else (S1 if NUMBER == 1 else S2)
    BITS: tl.constexpr = W0 if NUMBER == 0 else (W1 if NUMBER == 1 else W2)
    bound = _bound(counts, n, S0, W0, S1, W1, WIDTH)
    found = 0
    if NUMBER > 0:
        found, rank, _ = _pick(counts + 2 * WIDTH, n, W0)
        if NUMBER > 1:
            second, rank, _ = _pick(counts + 3 * WIDTH, rank, W1)
            found = (found << W1) | second
    number = tl.zeros([1 << BITS], dtype=tl.int32)
    for start in range(tl.program_id(0) * RUNS, n_runs, tl.num_programs(0) * RUNS):
        run = start + tl.arange(0, RUNS)
        value, _latents = _entries(pre, maxima, bound, run, n_runs, L, R, stride, G, RUNS)
        bits = value.to(tl.int32, bitcast=True)
        matches = (value > 0) & ((bits >> (SHIFT + BITS)) == found)
        number += tl.histogram((bits >> SHIFT) & ((1 << BITS) - 1), 1 << BITS, mask=matches)
    tl.atomic_add(counts + (2 + NUMBER) * WIDTH + tl.arange(0, 1 << BITS), number, mask=number > 0)


@triton.jit
def _row_count_kernel(
    pre, maxima, counts, above_out, tied_out, n, L, R, stride, S0: tl.constexpr, W0: tl.constexpr, S1: tl.constexpr,
    W1: tl.constexpr, S2: tl.constexpr, W2: tl.constexpr, WIDTH: tl.constexpr, G: tl.constexpr, RUNS: tl.constexpr
):
    """Count a row's entries above the cut, and those equal to it."""
    row = tl.program_id(0)
    bound = _bound(counts, n, S0, W0, S1, W1, WIDTH)
    cut, _ = _cut(counts, n, S0, W0, S1, W1, S2, W2, WIDTH)
    above, tied = 0, 0
    for start in range(row * R, (row + 1) * R, RUNS):
        run = start + tl.arange(0, RUNS)
        value, _latents = _entries(pre, maxima, bound, run, (row + 1) * R, L, R, stride, G, RUNS)
        bits = value.to(tl.int32, bitcast=True)
        above += tl.sum((bits > cut).to(tl.int32), axis=0)
        tied += tl.sum(((bits == cut) & (value > 0)).to(tl.int32), axis=0)
    tl.store(above_out + row, above)
    tl.store(tied_out + row, tied)


@triton.jit
def _starts_kernel(
    counts, above, tied, starts, n, B, S0: tl.constexpr, W0: tl.constexpr, S1: tl.constexpr, W1: tl.constexpr,
    S2: tl.constexpr, W2: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr
):
    """Give out the ties to the first rows, store how many each row gets in `tied`, and store the starts of the rows."""
    _, left = _cut(counts, n, S0, W0, S1, W1, S2, W2, WIDTH)
    total = 0
    for begin in range(0, B, TILE):
        row = begin + tl.arange(0, TILE)
        ties = tl.load(tied + row, mask=row < B, other=0)
        before = tl.cumsum(ties, axis=0) - ties
        given = tl.minimum(tl.maximum(left - before, 0), ties)
        number = tl.load(above + row, mask=row < B, other=0) + given
        tl.store(tied + row, given, mask=row < B)
        tl.store(starts + row, (total + tl.cumsum(number, axis=0) - number).to(tl.int64), mask=row < B)
        left -= tl.sum(given, axis=0)
        total += tl.sum(number, axis=0)
    tl.store(starts + B, total)


@triton.jit
def _row_write_kernel(
    pre, maxima, counts, given, starts, token_out, latent_out, value_out, n, B, L, R, stride, S0: tl.constexpr,
    W0: tl.constexpr, S1: tl.constexpr, W1: tl.constexpr, S2: tl.constexpr, W2: tl.constexpr, WIDTH: tl.constexpr,
    G: tl.constexpr, RUNS: tl.constexpr
):
    """Write a row's pairs; the program after the last row writes the empty pairs."""
    row = tl.program_id(0)
    at = tl.load(starts + row).to(tl.int32)
    if row < B:
        bound = _bound(counts, n, S0, W0, S1, W1, WIDTH)
        cut, _ = _cut(counts, n, S0, W0, S1, W1, S2, W2, WIDTH)
        left = tl.load(given + row)
        for start in range(row * R, (row + 1) * R, RUNS):
            run = start + tl.arange(0, RUNS)
            value, latent = _entries(pre, maxima, bound, run, (row + 1) * R, L, R, stride, G, RUNS)
            bits = value.to(tl.int32, bitcast=True)
            tied = ((bits == cut) & (value > 0)).to(tl.int32)
            stays = (bits > cut) | ((tied == 1) & (tl.cumsum(tied, axis=0) <= left))
            place = at + tl.cumsum(stays.to(tl.int32), axis=0) - 1
            tl.store(token_out + place, tl.full([RUNS * G], 0, tl.int64) + row, mask=stays)
            tl.store(latent_out + place, latent.to(tl.int64), mask=stays)
            tl.store(value_out + place, value, mask=stays)
            at += tl.sum(stays.to(tl.int32), axis=0)
            left -= tl.sum(tied, axis=0)
    else:
        for start in range(at, n, RUNS * G):
            place = start + tl.arange(0, RUNS * G)
            tl.store(token_out + place, tl.full([RUNS * G], 0, tl.int64) + B, mask=place < n)
            tl.store(latent_out + place, tl.full([RUNS * G], 0, tl.int64) + L, mask=place < n)
            tl.store(value_out + place, tl.zeros([RUNS * G], tl.float32), mask=place < n)
