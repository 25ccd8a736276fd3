"""What one piece of the text says about every latent; pieces merge exactly.

Counts are int64 and sums are fixed-point int64, so addition is associative to the last bit: a build
made in two halves and merged is identical to one made in one go, whatever the order.  Powers of
activations, of which a weak latent's are tiny beside the strongest's, are summed in two words.

*Counted* tokens are all real positions but BOS.  Shapes: L latents, V vocabulary, S positions,
K histogram bins, N firings, B tokens.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sae.index.company import SAMPLED, Company
from sae.index.crew import side_by_side
from sae.index.extremes import Extremes
from sae.index.pairs import PairCounts
from sae.index.peaks import Peaks, hash31
from sae.records import CLASSES

_FIXED = 1 << 30
_WORD = 25  # bits of the lower of two words; both together count in 2^-50
_NORM_STEPS = 64  # bins per factor of 2 in the histogram of residual norms
_NORM_BINS = 64 * 48
_NORM_LOW = -16  # its lowest bin starts at 2^-16
_MAX_POSITION_BINS = 256
_SAME = 1e-7  # relative variance below which activations in float32 cannot be told apart


@dataclass(frozen=True)
class Frame:
    """What all shards of a build have in common."""

    n_latents: int
    d_vocab: int
    context_length: int
    hist_edges: tuple[float, ...]  # upper edges of all bins but the last, rising
    unit: float  # a power of two above the largest activation expected
    norm_unit: float  # a power of two above the largest norm of what is reconstructed
    n_strong: int
    n_bin: int
    n_near: int

    @property
    def n_bins(self) -> int:
        return len(self.hist_edges) + 1

    @property
    def position_bins(self) -> int:
        return min(self.context_length, _MAX_POSITION_BINS)


@dataclass
class Firings:
    """The code of a piece of text as triplets with their context, in the order of the text."""

    latent_N: Tensor
    value_N: Tensor
    context_N: Tensor
    position_N: Tensor
    token_N: Tensor
    previous_N: Tensor
    next_N: Tensor  # the following token, −1 at the end of a context
    l0_N: Tensor  # active latents on the firing's token
    classes_N: Tensor  # the token's classes, bit by bit in the order of `CLASSES`


@dataclass
class Misses:
    """Pairs that nearly fired, with their pre-activations, in contexts in which the latent never fires."""

    latent_N: Tensor
    value_N: Tensor
    context_N: Tensor
    position_N: Tensor


@dataclass
class Tokens:
    """The tokens of the same piece, BOS included; `x` is what the SAE reconstructs."""

    context_B: Tensor
    position_B: Tensor
    token_B: Tensor
    previous_B: Tensor
    next_B: Tensor  # −1 at the end of a context
    classes_B: Tensor
    l0_B: Tensor
    x_BD: Tensor
    error_B: Tensor  # ‖x − x_hat‖²


@dataclass
class Shard:
    """Aggregates of a set of contexts.

    `…_2…` are two halves of the contexts: rules are found on the first, scored on the second.
    """

    contexts: int
    firings_2L: Tensor
    n_contexts_L: Tensor
    first_L: Tensor  # firings on the first and on the last token of a context
    last_L: Tensor
    powers_L32: Tensor  # Σ, Σ² and Σ³ of activations in units of the frame's, each in two words
    sum_l0_L: Tensor
    max_L: Tensor
    hist_LK: Tensor
    position_LS: Tensor
    l0_hist: Tensor  # [L + 1] counted tokens by L0
    l0_bos_hist: Tensor
    l0_position_S3: Tensor  # n, ΣL0, ΣL0²
    l0_token_V2: Tensor  # n, ΣL0 of counted tokens
    token_2V: Tensor  # how often each token is a counted token, precedes one, follows one
    preceding_2V: Tensor
    following_2V: Tensor
    class_2C: Tensor  # counted tokens of each class, and firings on them
    class_2LC: Tensor
    norm_hist: Tensor
    fit_S2: Tensor  # ‖x − x_hat‖² and ‖x‖² by position
    x_SD: Tensor  # sum of x by position
    tokens: PairCounts
    previous: PairCounts
    nexts: PairCounts
    peaks: Peaks
    near: Peaks  # of contexts in which a latent only nearly fires; they have no payload
    company: Company
    extremes: Extremes

    @classmethod
    def of(cls, frame: Frame, contexts: int, firings: Firings, every: Tokens, misses: Misses) -> Shard:
        """Aggregate counted firings, all tokens and counted near misses."""
        L, V, S = frame.n_latents, frame.d_vocab, frame.context_length
        latent_N, value_N = firings.latent_N, firings.value_N
        edges = torch.tensor(frame.hist_edges, dtype=torch.float32)
        bin_N = torch.bucketize(value_N, edges)
        place_N = (torch.arange(S) * frame.position_bins // S).index_select(0, firings.position_N)
        peaks = Peaks.find(latent_N, firings.context_N, firings.position_N, value_N, bin_N)
        held_N = held_out(firings.context_N)
        has_next = firings.next_N >= 0
        with_next = has_next.nonzero().squeeze(1)
        bos = every.position_B == 0
        tokens = Tokens(*(column[~bos] for column in vars(every).values()))
        held_B = held_out(tokens.context_B)
        followed = tokens.next_B >= 0
        relative_N = value_N.double() / frame.unit
        norm_B = tokens.x_BD.norm(dim=1)

        def pairs(token_N: Tensor, where: Tensor | None = None) -> PairCounts:
            columns = (latent_N, token_N, value_N, held_N)
            if where is not None:
                columns = tuple(column.index_select(0, where) for column in columns)  # type: ignore[assignment]
            return PairCounts.count(*columns, V)

        return cls(
            contexts=contexts,
            firings_2L=_halves(latent_N, held_N, L),
            n_contexts_L=torch.bincount(peaks.latent_N, minlength=L),
            first_L=torch.bincount(latent_N[firings.position_N == 1], minlength=L),
            last_L=torch.bincount(latent_N[~has_next], minlength=L),
            powers_L32=torch.stack([_wide_sums(latent_N, relative_N.pow(power), L) for power in (1, 2, 3)], dim=1),
            sum_l0_L=_sums(latent_N, firings.l0_N, L),
            max_L=torch.zeros(L).scatter_reduce_(0, latent_N, value_N, "amax"),
            hist_LK=torch.bincount(latent_N * frame.n_bins + bin_N, minlength=L * frame.n_bins).view(L, -1),
            position_LS=torch.bincount(latent_N * frame.position_bins + place_N,
                                       minlength=L * frame.position_bins).view(L, -1),
            l0_hist=torch.bincount(tokens.l0_B, minlength=L + 1),
            l0_bos_hist=torch.bincount(every.l0_B[bos], minlength=L + 1),
            l0_position_S3=_moments(every.position_B, every.l0_B, S),
            l0_token_V2=_moments(tokens.token_B, tokens.l0_B, V)[:, :2].contiguous(),
            token_2V=_halves(tokens.token_B, held_B, V),
            preceding_2V=_halves(tokens.previous_B, held_B, V),
            following_2V=_halves(tokens.next_B[followed], held_B[followed], V),
            class_2C=_by_class(tokens.classes_B, torch.zeros_like(tokens.token_B), held_B, 1)[:, 0],
            class_2LC=_by_class(firings.classes_N, latent_N, held_N, L),
            norm_hist=_norm_histogram(norm_B),
            fit_S2=torch.stack([_sums(tokens.position_B, _fixed(square_B.double() / frame.norm_unit**2), S)
                                for square_B in (tokens.error_B, norm_B.square())], dim=1),
            x_SD=_vector_sums(tokens.position_B, tokens.x_BD, frame.norm_unit, S),
            tokens=pairs(firings.token_N),
            previous=pairs(firings.previous_N),
            nexts=pairs(firings.next_N, with_next),
            peaks=peaks.prune(frame.n_strong, frame.n_bin, frame.n_bins),
            near=Peaks.alone(misses.latent_N, misses.context_N, misses.position_N, misses.value_N).prune(
                0, frame.n_near, 1),
            company=Company.find(firings.context_N * S + firings.position_N, latent_N).prune(SAMPLED),
            extremes=Extremes.find(tokens.context_B, tokens.l0_B, least=S // 2).prune(),
        )

    @property
    def n_tokens_L(self) -> Tensor:
        """Counted tokens on which each latent fires."""
        return self.firings_2L.sum(dim=0)

    def merge(self, other: Shard, frame: Frame) -> Shard:
        """The aggregates of both sets of contexts, which must be disjoint."""
        merged = copy(self)
        merged.absorb(other, frame)
        return merged

    def absorb(self, other: Shard, frame: Frame) -> None:
        """The same in place: one part after another takes that of the other in, and what it was goes."""

        def add(name: str, _: object) -> None:
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "max_L":
                mine = torch.maximum(mine, theirs)
            elif name == "near":
                mine = mine.merge(theirs).prune(0, frame.n_near, 1)
            elif isinstance(mine, Peaks):
                mine = mine.merge(theirs).prune(frame.n_strong, frame.n_bin, frame.n_bins)
            elif isinstance(mine, Company):
                mine = mine.merge(theirs).prune(SAMPLED)
            elif isinstance(mine, Extremes):
                mine = mine.merge(theirs).prune()
            else:
                mine = mine.merge(theirs) if isinstance(mine, PairCounts) else mine + theirs
            setattr(self, name, mine)

        longest_first = sorted((f.name for f in fields(self)), key=lambda name: name != "peaks")
        side_by_side([partial(add, name) for name in longest_first], lambda _: None)

    def mean_L(self, frame: Frame) -> Tensor:
        """Mean activation over the tokens on which each latent fires (float64; NaN where it never does)."""
        return self._moments_3L[0] * frame.unit

    def std_L(self, frame: Frame) -> Tensor:
        """Standard deviation over the same tokens."""
        return self._variance_L.sqrt() * frame.unit

    def skew_L(self) -> Tensor:
        """Third standardised moment over the same tokens; NaN where all activations are the same."""
        mean_L, _, cube_L = self._moments_3L.unbind()
        variance_L = self._variance_L
        third_L = cube_L - mean_L * (3 * variance_L + mean_L.square())
        spread_L = torch.where(variance_L > _SAME * mean_L.square(), variance_L, torch.nan)
        return third_L / spread_L.pow(1.5)

    @property
    def _variance_L(self) -> Tensor:
        mean_L, square_L, _ = self._moments_3L.unbind()
        return (square_L - mean_L.square()).clamp(min=0)

    @property
    def _moments_3L(self) -> Tensor:
        """Means of the first three powers, in units of the frame's; NaN where a latent never fires."""
        upper_L3, lower_L3 = self.powers_L32.double().unbind(dim=2)
        total_3L: Tensor = (upper_L3 / (1 << _WORD) + lower_L3 / (1 << 2 * _WORD)).T
        return total_3L / self.n_tokens_L

    def fvu_S(self) -> Tensor:
        """FVU at each position, around the mean of all counted tokens; NaN where none is or all are that mean."""
        n_S = self.l0_position_S3[:, 0].double()
        n_S[0] = 0  # BOS
        x_SD = self.x_SD.double() / _FIXED
        mean_D = x_SD.sum(dim=0) / n_S.sum()
        error_S, square_S = self.fit_S2.T.double() / _FIXED
        variance_S = square_S - 2 * x_SD @ mean_D + n_S * mean_D.square().sum()
        varied_S = variance_S > 1e-6 * square_S  # below that it is rounding
        fvu_S: Tensor = error_S / torch.where(varied_S, variance_S, torch.nan)
        return fvu_S

    def median_norm(self) -> float:
        """Median norm of the residual stream over counted tokens, to about 1%."""
        total = self.norm_hist.cumsum(0)
        index = int(torch.searchsorted(total, int(total[-1]) / 2))
        return float(2 ** ((index + 0.5) / _NORM_STEPS + _NORM_LOW))

    # ---- disk

    def state(self) -> dict[str, Any]:
        """As plain dicts of tensors, for a checkpoint."""
        return {f.name: value if isinstance(value, Tensor | int) else vars(value)
                for f in fields(self) for value in [getattr(self, f.name)]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shard:
        parts: dict[str, Any] = {"tokens": PairCounts, "previous": PairCounts, "nexts": PairCounts, "peaks": Peaks,
                                 "near": Peaks, "company": Company, "extremes": Extremes}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in state.items()})


def held_out(context_N: Tensor) -> Tensor:
    """Whether a context is in the half of the text that rules are scored on."""
    return (hash31(context_N) & 1).bool()


def _fixed(relative: Tensor) -> Tensor:
    return (relative * _FIXED).round().long()


def _halves(index_N: Tensor, held_N: Tensor, size: int) -> Tensor:
    """[2, size]: how often each index occurs in either half."""
    return torch.bincount(index_N + held_N * size, minlength=2 * size).view(2, size)


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
    fixed_N = (relative_N * (1 << 2 * _WORD)).round().long()
    return torch.stack([_sums(index_N, fixed_N >> _WORD, size), _sums(index_N, fixed_N & ((1 << _WORD) - 1), size)],
                       dim=1)


def _moments(index_B: Tensor, value_B: Tensor, size: int) -> Tensor:
    """[size, 3]: count, sum and sum of squares of integers by index."""
    return torch.stack([torch.bincount(index_B, minlength=size), _sums(index_B, value_B, size),
                        _sums(index_B, value_B.square(), size)], dim=1)


def _norm_histogram(norm_B: Tensor) -> Tensor:
    index = ((norm_B.log2() - _NORM_LOW) * _NORM_STEPS).floor().clamp(0, _NORM_BINS - 1).long()
    return torch.bincount(index, minlength=_NORM_BINS)
