"""What one piece of the text says about every latent; pieces merge exactly.

Counts are int64 and sums of activations are fixed-point int64 (2^-30 of a power of two above
the largest activation), so addition is associative to the last bit: a build made in two halves
and merged is identical to one made in one go, whatever the order.

*Counted* tokens are all real positions but BOS.  Shapes: L latents, V vocabulary, S positions,
K histogram bins, N firings, B tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sae.index.pairs import PairCounts
from sae.index.peaks import Peaks

_FIXED = 1 << 30
_NORM_STEPS = 64  # bins per factor of 2 in the histogram of residual norms
_NORM_BINS = 64 * 48
_NORM_LOW = -16  # its lowest bin starts at 2^-16
_MAX_POSITION_BINS = 256


@dataclass(frozen=True)
class Frame:
    """What all shards of a build have in common."""

    n_latents: int
    d_vocab: int
    context_length: int
    hist_edges: tuple[float, ...]  # upper edges of all bins but the last, rising
    unit: float  # a power of two above the largest activation expected
    n_strong: int
    n_bin: int

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
    next_N: Tensor  # the following token, −1 at the end of a context
    l0_N: Tensor  # active latents on the firing's token


@dataclass
class Tokens:
    """The tokens of the same piece, BOS included."""

    token_B: Tensor
    position_B: Tensor
    l0_B: Tensor
    norm_B: Tensor  # residual norms


@dataclass
class Shard:
    """Aggregates of a set of contexts."""

    contexts: int
    n_tokens_L: Tensor
    n_contexts_L: Tensor
    sum_L: Tensor
    sum_square_L: Tensor
    sum_l0_L: Tensor
    max_L: Tensor
    hist_LK: Tensor
    position_LS: Tensor
    l0_hist: Tensor  # [L + 1] counted tokens by L0
    l0_bos_hist: Tensor
    l0_position_S3: Tensor  # n, ΣL0, ΣL0²
    l0_token_V2: Tensor  # n, ΣL0 of counted tokens
    followed_V: Tensor  # how often each token follows a counted token
    norm_hist: Tensor
    tokens: PairCounts
    nexts: PairCounts
    peaks: Peaks

    @classmethod
    def of(cls, frame: Frame, contexts: int, firings: Firings, tokens: Tokens, following_N: Tensor) -> Shard:
        """Aggregate counted firings and all tokens; `following_N` are the tokens after counted tokens."""
        L, V, S = frame.n_latents, frame.d_vocab, frame.context_length
        latent_N, value_N = firings.latent_N, firings.value_N
        edges = torch.tensor(frame.hist_edges, dtype=torch.float32)
        bin_N = torch.bucketize(value_N, edges)
        place_N = firings.position_N * frame.position_bins // S
        peaks = Peaks.find(latent_N, firings.context_N, firings.position_N, value_N, bin_N)
        has_next = firings.next_N >= 0
        counted = tokens.position_B > 0
        relative_N = value_N.double() / frame.unit
        return cls(
            contexts=contexts,
            n_tokens_L=torch.bincount(latent_N, minlength=L),
            n_contexts_L=torch.bincount(peaks.latent_N, minlength=L),
            sum_L=_sums(latent_N, (relative_N * _FIXED).round().long(), L),
            sum_square_L=_sums(latent_N, (relative_N.square() * _FIXED).round().long(), L),
            sum_l0_L=_sums(latent_N, firings.l0_N, L),
            max_L=torch.zeros(L).scatter_reduce_(0, latent_N, value_N, "amax"),
            hist_LK=torch.bincount(latent_N * frame.n_bins + bin_N, minlength=L * frame.n_bins).view(L, -1),
            position_LS=torch.bincount(latent_N * frame.position_bins + place_N,
                                       minlength=L * frame.position_bins).view(L, -1),
            l0_hist=torch.bincount(tokens.l0_B[counted], minlength=L + 1),
            l0_bos_hist=torch.bincount(tokens.l0_B[~counted], minlength=L + 1),
            l0_position_S3=_moments(tokens.position_B, tokens.l0_B, S),
            l0_token_V2=_moments(tokens.token_B[counted], tokens.l0_B[counted], V)[:, :2].contiguous(),
            followed_V=torch.bincount(following_N, minlength=V),
            norm_hist=_norm_histogram(tokens.norm_B[counted]),
            tokens=PairCounts.count(latent_N, firings.token_N, value_N, V),
            nexts=PairCounts.count(latent_N[has_next], firings.next_N[has_next], value_N[has_next], V),
            peaks=peaks.prune(frame.n_strong, frame.n_bin, frame.n_bins),
        )

    def merge(self, other: Shard, frame: Frame) -> Shard:
        """The aggregates of both sets of contexts, which must be disjoint."""
        merged: dict[str, Any] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name == "max_L":
                merged[f.name] = torch.maximum(mine, theirs)
            elif isinstance(mine, PairCounts):
                merged[f.name] = mine.merge(theirs)
            elif isinstance(mine, Peaks):
                merged[f.name] = mine.merge(theirs).prune(frame.n_strong, frame.n_bin, frame.n_bins)
            else:
                merged[f.name] = mine + theirs
        return Shard(**merged)

    def mean_L(self, frame: Frame) -> Tensor:
        """Mean activation over the tokens on which each latent fires (float64; NaN where it never does)."""
        return self.sum_L.double() / _FIXED * frame.unit / self.n_tokens_L

    def std_L(self, frame: Frame) -> Tensor:
        """Standard deviation over the same tokens."""
        mean_square_L = self.sum_square_L.double() / _FIXED * frame.unit**2 / self.n_tokens_L
        return (mean_square_L - self.mean_L(frame).square()).clamp(min=0).sqrt()

    def median_norm(self) -> float:
        """Median norm of the residual stream over counted tokens, to about 1%."""
        total = self.norm_hist.cumsum(0)
        index = int(torch.searchsorted(total, int(total[-1]) / 2))
        return float(2 ** ((index + 0.5) / _NORM_STEPS + _NORM_LOW))

    # ---- disk

    def state(self) -> dict[str, Any]:
        """As plain dicts of tensors, for a checkpoint."""
        return {f.name: vars(value) if isinstance(value, PairCounts | Peaks) else value
                for f in fields(self) for value in [getattr(self, f.name)]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shard:
        parts = {"tokens": PairCounts, "nexts": PairCounts, "peaks": Peaks}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in state.items()})


def _sums(index_N: Tensor, value_N: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64).index_add_(0, index_N, value_N)


def _moments(index_B: Tensor, value_B: Tensor, size: int) -> Tensor:
    """[size, 3]: count, sum and sum of squares of integers by index."""
    return torch.stack([torch.bincount(index_B, minlength=size), _sums(index_B, value_B, size),
                        _sums(index_B, value_B.square(), size)], dim=1)


def _norm_histogram(norm_B: Tensor) -> Tensor:
    index = ((norm_B.log2() - _NORM_LOW) * _NORM_STEPS).floor().clamp(0, _NORM_BINS - 1).long()
    return torch.bincount(index, minlength=_NORM_BINS)
