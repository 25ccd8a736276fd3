"""What one piece of the text says about every latent; pieces merge exactly.

A build made in two halves and merged is identical to one made in one go, whatever the order.

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

from sae.index.aggregates import FIXED, NORM_LOW, NORM_STEPS, WORD, aggregate
from sae.index.cofiring import SAMPLED, CofiringSample
from sae.index.forward import ForwardPass
from sae.index.l0_extremes import Extremes
from sae.index.scales import IndexScales
from sae.index.threads import run_jobs
from sae.index.token_counts import PairCounts
from sae.index.top_contexts import Peaks

_SAME = 1e-7  # relative variance below which activations in float32 cannot be told apart


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
    powers_L33: Tensor  # Σ, Σ² and Σ³ of activations in units of the frame's, each in three words
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
    company: CofiringSample
    extremes: Extremes

    @classmethod
    def of(cls, scales: IndexScales, passes: list[ForwardPass]) -> Shard:
        """Aggregate passes with counted firings, all tokens and counted near misses; the list is emptied."""
        return cls(contexts=sum(tokens.n_contexts for _, tokens, _ in passes), **aggregate(scales, passes))

    @property
    def n_tokens_L(self) -> Tensor:
        """Counted tokens on which each latent fires."""
        return self.firings_2L.sum(dim=0)

    def merge(self, other: Shard, scales: IndexScales) -> Shard:
        """The aggregates of both sets of contexts, which must be disjoint."""
        merged = copy(self)
        merged.absorb(other, scales)
        return merged

    def absorb(self, other: Shard, scales: IndexScales) -> None:
        """The same in place: one part after another takes that of the other in, and what it was goes."""

        def add(name: str, _: object) -> None:
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "max_L":
                mine = torch.maximum(mine, theirs)
            elif name == "near":
                mine = mine.merge(theirs).prune(0, scales.n_near, 1)
            elif isinstance(mine, Peaks):
                mine = mine.merge(theirs).prune(scales.n_strong, scales.n_bin, scales.n_bins)
            elif isinstance(mine, CofiringSample):
                mine = mine.merge(theirs).prune(SAMPLED)
            elif isinstance(mine, Extremes):
                mine = mine.merge(theirs).prune()
            else:
                mine = mine.merge(theirs) if isinstance(mine, PairCounts) else mine + theirs
            setattr(self, name, mine)

        longest_first = sorted((f.name for f in fields(self)), key=lambda name: name != "peaks")
        run_jobs([partial(add, name) for name in longest_first], lambda _: None)

    def mean_L(self, scales: IndexScales) -> Tensor:
        """Mean activation over the tokens on which each latent fires (float64; NaN where it never does)."""
        return self._moments_3L[0] * scales.unit

    def std_L(self, scales: IndexScales) -> Tensor:
        """Standard deviation over the same tokens."""
        return self._variance_L.sqrt() * scales.unit

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
        total_L3 = torch.zeros(self.powers_L33.shape[:2], dtype=torch.float64)
        for word_L3 in reversed(self.powers_L33.unbind(dim=2)):  # the smallest first
            total_L3 = (total_L3 + word_L3) / (1 << WORD)
        return total_L3.T / self.n_tokens_L

    def fvu_S(self) -> Tensor:
        """FVU at each position, around the mean of all counted tokens; NaN where none is or all are that mean."""
        n_S = self.l0_position_S3[:, 0].double()
        n_S[0] = 0  # BOS
        x_SD = self.x_SD.double() / FIXED
        mean_D = x_SD.sum(dim=0) / n_S.sum()
        error_S, square_S = self.fit_S2.T.double() / FIXED
        variance_S = square_S - 2 * x_SD @ mean_D + n_S * mean_D.square().sum()
        varied_S = variance_S > 1e-6 * square_S  # below that it is rounding
        fvu_S: Tensor = error_S / torch.where(varied_S, variance_S, torch.nan)
        return fvu_S

    def median_norm(self) -> float:
        """Median norm of the residual stream over counted tokens, to about 1%."""
        total = self.norm_hist.cumsum(0)
        index = int(torch.searchsorted(total, int(total[-1]) / 2))
        return float(2 ** ((index + 0.5) / NORM_STEPS + NORM_LOW))

    # ---- disk

    def state(self) -> dict[str, Any]:
        """As plain dicts of tensors, for a checkpoint."""
        return {f.name: value if isinstance(value, Tensor | int) else vars(value)
                for f in fields(self) for value in [getattr(self, f.name)]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shard:
        parts: dict[str, Any] = {"tokens": PairCounts, "previous": PairCounts, "nexts": PairCounts, "peaks": Peaks,
                                 "near": Peaks, "company": CofiringSample, "extremes": Extremes}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in state.items()})
