"""Aggregates of one piece of the text over all latents; pieces merge exactly.

Two halves that are merged, in either order, give the same build as one pass over the whole text.

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

_MIN_VARIANCE = 1e-7  # relative variance below which float32 activations count as equal
_CHECKPOINT_KEYS = {"cofiring": "company"}  # fields that have another name in checkpoints


@dataclass
class Shard:
    """Aggregates of a set of contexts.

    A dimension `2` in a name stands for the two halves of the contexts: rules are found on the first half and
    scored on the second.
    """

    contexts: int
    firings_2L: Tensor
    n_contexts_L: Tensor
    first_L: Tensor  # firings on the first and on the last token of a context
    last_L: Tensor
    powers_L33: Tensor  # Σ, Σ² and Σ³ of activations in units of `IndexScales.unit`, each in three words
    sum_l0_L: Tensor
    max_L: Tensor
    hist_LK: Tensor
    position_LS: Tensor
    l0_hist: Tensor  # [L + 1] counted tokens by L0
    l0_bos_hist: Tensor
    l0_position_S3: Tensor  # n, ΣL0, ΣL0²
    l0_token_V2: Tensor  # n, ΣL0 of counted tokens
    token_2V: Tensor  # how often each token is a counted token
    preceding_2V: Tensor  # how often each token precedes a counted token
    following_2V: Tensor  # how often each token follows a counted token
    class_2C: Tensor  # counted tokens of each class, and firings on them
    class_2LC: Tensor
    norm_hist: Tensor
    fit_S2: Tensor  # ‖x − x_hat‖² and ‖x‖² by position
    x_SD: Tensor  # sum of x by position
    tokens: PairCounts
    previous: PairCounts
    nexts: PairCounts
    peaks: Peaks
    near: Peaks  # near misses, which have no payload
    cofiring: CofiringSample
    extremes: Extremes

    @classmethod
    def of(cls, scales: IndexScales, passes: list[ForwardPass]) -> Shard:
        """Aggregate passes with counted firings, all tokens and counted near misses, and empty the list."""
        return cls(contexts=sum(one.tokens.n_contexts for one in passes), **aggregate(scales, passes))

    @property
    def n_tokens_L(self) -> Tensor:
        """Return the number of counted tokens on which each latent fires."""
        return self.firings_2L.sum(dim=0)

    def merge(self, other: Shard, scales: IndexScales) -> Shard:
        """Return the aggregates of both sets of contexts, which must be disjoint."""
        merged = copy(self)
        merged.absorb(other, scales)
        return merged

    def absorb(self, other: Shard, scales: IndexScales) -> None:
        """Merge `other` into this shard in place, one field at a time, so that each old field is freed at once."""

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
        """Return the mean activation over the tokens on which each latent fires (float64; NaN if it never does)."""
        return self._moments_3L[0] * scales.unit

    def std_L(self, scales: IndexScales) -> Tensor:
        """Return the standard deviation of each latent's activations over the tokens on which it fires."""
        return self._variance_L.sqrt() * scales.unit

    def skew_L(self) -> Tensor:
        """Return the third standardised moment of each latent's activations; NaN where they are all equal."""
        mean_L, _, cube_L = self._moments_3L.unbind()
        variance_L = self._variance_L
        third_L = cube_L - mean_L * (3 * variance_L + mean_L.square())
        spread_L = torch.where(variance_L > _MIN_VARIANCE * mean_L.square(), variance_L, torch.nan)
        return third_L / spread_L.pow(1.5)

    @property
    def _variance_L(self) -> Tensor:
        mean_L, square_L, _ = self._moments_3L.unbind()
        return (square_L - mean_L.square()).clamp(min=0)

    @property
    def _moments_3L(self) -> Tensor:
        """Return the means of the first three powers, in powers of the unit; NaN where a latent never fires."""
        total_L3 = torch.zeros(self.powers_L33.shape[:2], dtype=torch.float64)
        for word_L3 in reversed(self.powers_L33.unbind(dim=2)):  # the smallest first
            total_L3 = (total_L3 + word_L3) / (1 << WORD)
        return total_L3.T / self.n_tokens_L

    def fvu_S(self) -> Tensor:
        """Return the FVU at each position, around the mean of all counted tokens.

        It is NaN at a position without counted tokens and at one whose tokens all equal that mean.
        """
        n_S = self.l0_position_S3[:, 0].double()
        n_S[0] = 0  # BOS
        x_SD = self.x_SD.double() / FIXED
        mean_D = x_SD.sum(dim=0) / n_S.sum()
        error_S, square_S = self.fit_S2.T.double() / FIXED
        variance_S = square_S - 2 * x_SD @ mean_D + n_S * mean_D.square().sum()
        varied_S = variance_S > 1e-6 * square_S  # a smaller variance is rounding
        fvu_S: Tensor = error_S / torch.where(varied_S, variance_S, torch.nan)
        return fvu_S

    def median_norm(self) -> float:
        """Return the median norm of the residual stream over counted tokens, to about 1%."""
        total = self.norm_hist.cumsum(0)
        index = int(torch.searchsorted(total, int(total[-1]) / 2))
        return float(2 ** ((index + 0.5) / NORM_STEPS + NORM_LOW))

    # ---- disk

    def state(self) -> dict[str, Any]:
        """Return plain dicts of tensors for a checkpoint."""
        return {_CHECKPOINT_KEYS.get(f.name, f.name): value if isinstance(value, Tensor | int) else vars(value)
                for f in fields(self) for value in [getattr(self, f.name)]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shard:
        """Rebuild a shard from what `state` returned."""
        parts: dict[str, Any] = {"tokens": PairCounts, "previous": PairCounts, "nexts": PairCounts, "peaks": Peaks,
                                 "near": Peaks, "cofiring": CofiringSample, "extremes": Extremes}
        values = {f.name: state[_CHECKPOINT_KEYS.get(f.name, f.name)] for f in fields(cls)}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in values.items()})
