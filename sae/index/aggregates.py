"""The sums over a piece of text that make up a shard, computed in parallel.

Counts are int64 and sums are fixed-point int64, so addition is associative to the last bit.  Powers of
activations are summed in three words, because a weak latent's powers are tiny next to the strongest's.

Shapes: L latents, V vocabulary, S positions, K histogram bins, N firings, B tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sae.index.cofiring import SAMPLED, CofiringSample
from sae.index.forward import Firings, ForwardPass, Misses, Tokens, joined
from sae.index.l0_extremes import Extremes
from sae.index.scales import IndexScales
from sae.index.threads import run_jobs
from sae.index.token_counts import PairCounts
from sae.index.top_contexts import Peaks
from sae.kernels.hashing import hash31
from sae.kernels.sorting import paired
from sae.store.records import CLASSES

FIXED = 1 << 30
WORD = 25  # bits per word of a sum
_WORDS = 3  # three words hold the square of a float32 to its last bit, down to activations of 2⁻¹³ of the unit
_RUN = 1 << 15  # numbers summed at a time, so that they stay in the processor's cache
NORM_STEPS = 64  # bins per factor of 2 in the histogram of residual norms
NORM_LOW = -16  # its lowest bin starts at 2^-16
_NORM_BINS = 64 * 48

Fields: TypeAlias = dict[str, Any]  # some fields of `sae.index.shard.Shard`, by name


def aggregate(scales: IndexScales, passes: list[ForwardPass]) -> Fields:
    """Compute all fields of a shard from passes with counted firings and counted near misses.

    Empties the list `passes` as soon as possible to free memory.
    """
    made: Fields = {}
    _run_all([
        lambda: _token_sums(scales, [one.tokens for one in passes]),
        lambda: {"firings": joined([one.firings for one in passes])},
        lambda: {"near": _near_peaks(scales, joined([one.misses for one in passes]))}], made)
    passes.clear()
    firings: Firings = made.pop("firings")
    context_R, size_R = torch.unique_consecutive(firings.context_N, return_counts=True)
    held_N = held_out(context_R).int().repeat_interleave(size_R)

    def pairs(name: str, token_N: Tensor) -> Callable[[], Fields]:
        return lambda: {name: _pairs(scales, firings.latent_N, token_N, firings.value_N, held_N)}

    _run_all([
        lambda: _peaks(scales, firings), lambda: _cofiring(scales, firings), pairs("tokens", firings.token_N),
        pairs("previous", firings.previous_N), lambda: {"nexts": _nexts(scales, firings, held_N)},
        lambda: _latent_sums(scales, firings, held_N), lambda: _value_sums(scales, firings)], made)
    return made


def _run_all(jobs: Sequence[Callable[[], Fields]], made: Fields) -> None:
    run_jobs([lambda _, job=job: job() for job in jobs], made.update)  # type: ignore[misc]


def _peaks(scales: IndexScales, firings: Firings) -> Fields:
    L = scales.n_latents
    found = Peaks.find(L, firings.latent_N, firings.context_N, firings.position_N, firings.value_N, scales.edges)
    return {"n_contexts_L": torch.bincount(found.latent_N, minlength=L),
            "max_L": torch.zeros(L).scatter_reduce_(0, found.latent_N, found.value_N, "amax"),
            "peaks": found.prune(scales.n_strong, scales.n_bin, scales.n_bins)}


def _near_peaks(scales: IndexScales, misses: Misses) -> Peaks:
    """Return the peaks of near misses, in a single bin and without a payload."""
    found = Peaks.find(scales.n_latents, misses.latent_N, misses.context_N, misses.position_N, misses.value_N,
                       torch.zeros(0))
    return found.without_payload().prune(0, scales.n_near, 1)


def _cofiring(scales: IndexScales, firings: Firings) -> Fields:
    found = CofiringSample.find(firings.context_N.long() * scales.context_length + firings.position_N, firings.latent_N)
    return {"cofiring": found.prune(SAMPLED)}


def _pairs(scales: IndexScales, latent_N: Tensor, token_N: Tensor, value_N: Tensor, held_N: Tensor) -> PairCounts:
    return PairCounts.count(latent_N, scales.n_latents, token_N, scales.d_vocab, value_N, held_N)


def _nexts(scales: IndexScales, firings: Firings, held_N: Tensor) -> PairCounts:
    some = (firings.next_N >= 0).nonzero().squeeze(1)
    latent_M, next_M, value_M, held_M = (
        column.index_select(0, some) for column in (firings.latent_N, firings.next_N, firings.value_N, held_N))
    return _pairs(scales, latent_M, next_M, value_M, held_M)


def _value_sums(scales: IndexScales, firings: Firings) -> Fields:
    """Sum powers of activations and count them in histogram bins, one row per latent."""
    L, latent_N, value_N = scales.n_latents, firings.latent_N, firings.value_N
    relative_N = value_N.double() / scales.unit
    return {
        "powers_L33": torch.stack([_wide_sums(latent_N, relative_N.pow(power), L) for power in (1, 2, 3)], dim=1),
        "hist_LK": _table(latent_N, torch.bucketize(value_N, scales.edges), L, scales.n_bins)}


def _latent_sums(scales: IndexScales, firings: Firings, held_N: Tensor) -> Fields:
    """Count firings by half, position and token class, one row per latent."""
    L, S, latent_N = scales.n_latents, scales.context_length, firings.latent_N
    position_bin_N = (torch.arange(S) * scales.position_bins // S).int().index_select(0, firings.position_N)
    return {
        "firings_2L": _halves(latent_N, held_N, L),
        "first_L": torch.bincount(latent_N[firings.position_N == 1], minlength=L),
        "last_L": torch.bincount(latent_N[firings.next_N < 0], minlength=L),
        "sum_l0_L": _sums(latent_N, firings.l0_N, L),
        "position_LS": _table(latent_N, position_bin_N, L, scales.position_bins),
        "class_2LC": _by_class(firings.classes_N, latent_N, held_N, L)}


def _token_sums(scales: IndexScales, parts: Sequence[Tokens]) -> Fields:
    """Compute the fields that are sums over tokens, whichever latents fire on them."""
    L, V, S = scales.n_latents, scales.d_vocab, scales.context_length
    every = joined([replace(part, x_BD=part.x_BD[:, :0]) for part in parts])  # x is large, so it stays in parts
    bos_B = every.position_B == 0
    counted = (~bos_B).nonzero().squeeze(1)
    tokens = Tokens(*(column.index_select(0, counted) for column in vars(every).values()))
    norm_B = torch.cat([part.x_BD.norm(dim=1) for part in parts])[counted]
    held_B = held_out(tokens.context_B)
    followed_B = tokens.next_B >= 0
    return {
        "l0_hist": torch.bincount(tokens.l0_B, minlength=L + 1),
        "l0_bos_hist": torch.bincount(every.l0_B[bos_B], minlength=L + 1),
        "l0_position_S3": _moments(every.position_B, every.l0_B, S),
        "l0_token_V2": _moments(tokens.token_B, tokens.l0_B, V)[:, :2].contiguous(),
        "token_2V": _halves(tokens.token_B, held_B, V),
        "preceding_2V": _halves(tokens.previous_B, held_B, V),
        "following_2V": _halves(tokens.next_B[followed_B], held_B[followed_B], V),
        "class_2C": _by_class(tokens.classes_B, torch.zeros_like(tokens.token_B), held_B, 1)[:, 0],
        "norm_hist": _norm_histogram(norm_B),
        "fit_S2": torch.stack([_sums(tokens.position_B, _fixed(square_B / scales.norm_unit**2), S)
                               for square_B in (tokens.error_B, norm_B.square())], dim=1),
        "x_SD": _vector_sums(parts, scales.norm_unit, S),
        "extremes": Extremes.find(tokens.context_B, tokens.l0_B, least=S // 2).prune()}


def held_out(context_N: Tensor) -> Tensor:
    """Return True for each context in the half of the text that rules are scored on."""
    return (hash31(context_N.long()) & 1).bool()


def _fixed(relative: Tensor) -> Tensor:
    """Convert to integers in units of 2⁻³⁰, and round away what is smaller."""
    return (relative * FIXED).round().long()


def _halves(index_N: Tensor, held_N: Tensor, size: int) -> Tensor:
    """Count how often each index occurs in either half, [2, size]."""
    return _table(held_N, index_N, 2, size)


def _table(row_N: Tensor, column_N: Tensor, rows: int, columns: int) -> Tensor:
    """Count how often each pair occurs, [rows, columns]."""
    return torch.bincount(paired(row_N, rows, column_N, columns), minlength=rows * columns).view(rows, columns)


def _by_class(classes_N: Tensor, index_N: Tensor, held_N: Tensor, size: int) -> Tensor:
    """Count how often each index occurs on each token class, in either half: [2, size, C]."""
    kinds_U, kind_N = torch.unique(classes_N, return_inverse=True)  # few combinations of classes occur
    U = len(kinds_U)
    cell_N = paired(paired(held_N, 2, index_N, size), 2 * size, kind_N.int(), U)
    counts_2IU = torch.bincount(cell_N, minlength=2 * size * U).view(2, size, U)
    has_UC = kinds_U[:, None] >> torch.arange(len(CLASSES)) & 1
    by_class_2LC: Tensor = (counts_2IU.double() @ has_UC.double()).long()
    return by_class_2LC


def _sums(index_N: Tensor, value_N: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64).index_add_(0, index_N, value_N.long())


def _vector_sums(parts: Sequence[Tokens], unit: float, size: int) -> Tensor:
    """Sum x by position in fixed point, without BOS: [size, D].

    The rows are read a few at a time, so that they stay in the processor's cache.
    """
    total = torch.zeros(size, parts[0].x_BD.shape[1], dtype=torch.int64)
    for part in parts:
        for index_R, x_RD in zip(torch.split(part.position_B, 512), torch.split(part.x_BD, 512), strict=True):
            total.index_add_(0, index_R, _fixed(x_RD / unit))
    total[0] = 0
    return total


def _wide_sums(index_N: Tensor, relative_N: Tensor, size: int) -> Tensor:
    """Sum numbers that are not much above 1 into three words, the upper word first: [size, 3]."""
    totals = torch.zeros(_WORDS, size, dtype=torch.int64)
    for index_R, relative_R in zip(torch.split(index_N, _RUN), torch.split(relative_N, _RUN), strict=True):
        for total in totals:
            relative_R = relative_R * (1 << WORD)
            word_R = relative_R.floor()
            total.index_add_(0, index_R, word_R.long())
            relative_R -= word_R
    return totals.T.contiguous()


def _moments(index_B: Tensor, value_B: Tensor, size: int) -> Tensor:
    """Return count, sum and sum of squares of integers by index, [size, 3]."""
    return torch.stack([torch.bincount(index_B, minlength=size), _sums(index_B, value_B, size),
                        _sums(index_B, value_B.square(), size)], dim=1)


def _norm_histogram(norm_B: Tensor) -> Tensor:
    index = ((norm_B.log2() - NORM_LOW) * NORM_STEPS).floor().clamp(0, _NORM_BINS - 1).long()
    return torch.bincount(index, minlength=_NORM_BINS)
