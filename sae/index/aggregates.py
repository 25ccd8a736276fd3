"""The sums over a piece of text of which a shard consists, several made at once.

Counts are int64 and sums are fixed-point int64, so addition is associative to the last bit.  Powers of
activations, of which a weak latent's are tiny beside the strongest's, are summed in two words.

Shapes: L latents, V vocabulary, S positions, K histogram bins, N firings, B tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sae.index.company import SAMPLED, Company
from sae.index.crew import side_by_side
from sae.index.extremes import Extremes
from sae.index.frame import Frame
from sae.index.pairs import PairCounts
from sae.index.passes import Firings, Misses, Tokens
from sae.index.peaks import Peaks, hash31
from sae.records import CLASSES

FIXED = 1 << 30
WORD = 25  # bits of the lower of two words; both together count in 2^-50
NORM_STEPS = 64  # bins per factor of 2 in the histogram of residual norms
NORM_LOW = -16  # its lowest bin starts at 2^-16
_NORM_BINS = 64 * 48

Fields: TypeAlias = dict[str, Any]  # of `sae.index.shard.Shard`


def aggregate(frame: Frame, firings: Firings, every: Tokens, misses: Misses) -> Fields:
    """All fields of a shard but the number of its contexts, of counted firings, all tokens and counted near misses."""
    L, V, S = frame.n_latents, frame.d_vocab, frame.context_length
    latent_N, value_N = firings.latent_N, firings.value_N
    held_N = held_out(firings.context_N)
    bin_N = torch.bucketize(value_N, torch.tensor(frame.hist_edges, dtype=torch.float32))

    def peaks() -> Fields:
        found = Peaks.find(latent_N, firings.context_N, firings.position_N, value_N, bin_N)
        return {"n_contexts_L": torch.bincount(found.latent_N, minlength=L),
                "peaks": found.prune(frame.n_strong, frame.n_bin, frame.n_bins)}

    def pairs(name: str, token_N: Tensor) -> Callable[[], Fields]:
        return lambda: {name: PairCounts.count(latent_N, token_N, value_N, held_N, V)}

    def following() -> Fields:
        some = (firings.next_N >= 0).nonzero().squeeze(1)
        latent_M, next_M, value_M, held_M = (
            column.index_select(0, some) for column in (latent_N, firings.next_N, value_N, held_N))
        return {"nexts": PairCounts.count(latent_M, next_M, value_M, held_M, V)}

    def company() -> Fields:
        return {"company": Company.find(firings.context_N * S + firings.position_N, latent_N).prune(SAMPLED)}

    def near() -> Fields:
        found = Peaks.alone(misses.latent_N, misses.context_N, misses.position_N, misses.value_N)
        return {"near": found.prune(0, frame.n_near, 1)}

    made: Fields = {}
    jobs = [peaks, company, pairs("tokens", firings.token_N), pairs("previous", firings.previous_N), following,
            lambda: _of_values(frame, firings, bin_N), lambda: _of_latents(frame, firings, held_N),
            lambda: _of_tokens(frame, every), near]
    side_by_side([lambda _, job=job: job() for job in jobs], made.update)  # type: ignore[misc]
    return made


def _of_values(frame: Frame, firings: Firings, bin_N: Tensor) -> Fields:
    """Of activations, by latent."""
    L, latent_N, value_N = frame.n_latents, firings.latent_N, firings.value_N
    relative_N = value_N.double() / frame.unit
    return {
        "powers_L32": torch.stack([_wide_sums(latent_N, relative_N.pow(power), L) for power in (1, 2, 3)], dim=1),
        "max_L": torch.zeros(L).scatter_reduce_(0, latent_N, value_N, "amax"),
        "hist_LK": _table(latent_N, bin_N, L, frame.n_bins)}


def _of_latents(frame: Frame, firings: Firings, held_N: Tensor) -> Fields:
    """Of where latents fire."""
    L, S, latent_N = frame.n_latents, frame.context_length, firings.latent_N
    place_N = (torch.arange(S) * frame.position_bins // S).index_select(0, firings.position_N)
    return {
        "firings_2L": _halves(latent_N, held_N, L),
        "first_L": torch.bincount(latent_N[firings.position_N == 1], minlength=L),
        "last_L": torch.bincount(latent_N[firings.next_N < 0], minlength=L),
        "sum_l0_L": _sums(latent_N, firings.l0_N, L),
        "position_LS": _table(latent_N, place_N, L, frame.position_bins),
        "class_2LC": _by_class(firings.classes_N, latent_N, held_N, L)}


def _of_tokens(frame: Frame, every: Tokens) -> Fields:
    """Of tokens, whatever fires on them."""
    L, V, S = frame.n_latents, frame.d_vocab, frame.context_length
    bos_B = every.position_B == 0
    counted = (~bos_B).nonzero().squeeze(1)
    tokens = Tokens(*(column.index_select(0, counted) for column in vars(every).values()))
    held_B = held_out(tokens.context_B)
    followed_B = tokens.next_B >= 0
    norm_B = tokens.x_BD.norm(dim=1)
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
        "fit_S2": torch.stack([_sums(tokens.position_B, _fixed(square_B.double() / frame.norm_unit**2), S)
                               for square_B in (tokens.error_B, norm_B.square())], dim=1),
        "x_SD": _vector_sums(tokens.position_B, tokens.x_BD, frame.norm_unit, S),
        "extremes": Extremes.find(tokens.context_B, tokens.l0_B, least=S // 2).prune()}


def held_out(context_N: Tensor) -> Tensor:
    """Whether a context is in the half of the text that rules are scored on."""
    return (hash31(context_N) & 1).bool()


def _fixed(relative: Tensor) -> Tensor:
    return (relative * FIXED).round().long()


def _halves(index_N: Tensor, held_N: Tensor, size: int) -> Tensor:
    """[2, size]: how often each index occurs in either half."""
    return _table(held_N, index_N, 2, size)


def _table(row_N: Tensor, column_N: Tensor, rows: int, columns: int) -> Tensor:
    """[rows, columns]: how often each pair occurs."""
    return torch.bincount(row_N * columns + column_N, minlength=rows * columns).view(rows, columns)


def _by_class(classes_N: Tensor, index_N: Tensor, held_N: Tensor, size: int) -> Tensor:
    """[2, size, C]: the same, for those of each class."""
    kinds_U, kind_N = torch.unique(classes_N, return_inverse=True)  # few combinations of classes occur
    U = len(kinds_U)
    counts_2IU = torch.bincount((index_N + held_N * size) * U + kind_N, minlength=2 * size * U).view(2, size, U)
    has_UC = kinds_U[:, None] >> torch.arange(len(CLASSES)) & 1
    by_class_2LC: Tensor = (counts_2IU.double() @ has_UC.double()).long()
    return by_class_2LC


def _sums(index_N: Tensor, value_N: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64).index_add_(0, index_N, value_N)


def _vector_sums(index_B: Tensor, x_BD: Tensor, unit: float, size: int) -> Tensor:
    """[size, D]: fixed-point sums of vectors, a few at a time, which stay in the cache."""
    total = torch.zeros(size, x_BD.shape[1], dtype=torch.int64)
    for index_R, x_RD in zip(torch.split(index_B, 1024), torch.split(x_BD, 1024), strict=True):
        total.index_add_(0, index_R, _fixed(x_RD.double() / unit))
    return total


def _wide_sums(index_N: Tensor, relative_N: Tensor, size: int) -> Tensor:
    """[size, 2]: the upper and the lower words of sums of numbers that are not much above 1."""
    fixed_N = (relative_N * (1 << 2 * WORD)).round().long()
    return torch.stack([_sums(index_N, fixed_N >> WORD, size), _sums(index_N, fixed_N & ((1 << WORD) - 1), size)],
                       dim=1)


def _moments(index_B: Tensor, value_B: Tensor, size: int) -> Tensor:
    """[size, 3]: count, sum and sum of squares of integers by index."""
    return torch.stack([torch.bincount(index_B, minlength=size), _sums(index_B, value_B, size),
                        _sums(index_B, value_B.square(), size)], dim=1)


def _norm_histogram(norm_B: Tensor) -> Tensor:
    index = ((norm_B.log2() - NORM_LOW) * NORM_STEPS).floor().clamp(0, _NORM_BINS - 1).long()
    return torch.bincount(index, minlength=_NORM_BINS)
