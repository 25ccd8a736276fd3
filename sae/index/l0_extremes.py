"""The contexts whose tokens need fewest and most latents, out of all that were read.

Shapes: M kept contexts, B counted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 8  # at either end


@dataclass
class Extremes:
    """Contexts in the order of their numbers, with their counted tokens and the sum of those tokens' L0."""

    context_M: Tensor
    n_M: Tensor
    l0_M: Tensor

    @classmethod
    def find(cls, context_B: Tensor, l0_B: Tensor, least: int) -> Extremes:
        """The contexts with at least `least` counted tokens, not yet pruned."""
        context_M, at_B = torch.unique(context_B, return_inverse=True)
        n_M = torch.bincount(at_B, minlength=len(context_M))
        l0_M = torch.zeros_like(n_M).index_add_(0, at_B, l0_B)
        long_M = n_M >= least
        return cls(context_M[long_M], n_M[long_M], l0_M[long_M])

    def merge(self, other: Extremes) -> Extremes:
        """Those of two disjoint sets of contexts, not yet pruned."""
        both = [torch.cat([getattr(self, name), getattr(other, name)]) for name in ("context_M", "n_M", "l0_M")]
        order = torch.argsort(both[0])
        return Extremes(*(column[order] for column in both))

    def prune(self) -> Extremes:
        """Keep what is at either end."""
        kept = torch.unique(torch.cat([self._order(False), self._order(True)]))
        return Extremes(self.context_M[kept], self.n_M[kept], self.l0_M[kept])

    def fewest(self) -> Tensor:
        """The contexts with the lowest mean L0, lowest first; equals in the order of their numbers."""
        return self.context_M[self._order(False)]

    def most(self) -> Tensor:
        """Those with the highest, highest first, none of which is among the `fewest`."""
        most = self.context_M[self._order(True)]
        return most[~torch.isin(most, self.fewest())]

    def _order(self, descending: bool) -> Tensor:
        mean_M = self.l0_M.double() / self.n_M
        return torch.argsort(mean_M, descending=descending, stable=True)[:KEPT]
