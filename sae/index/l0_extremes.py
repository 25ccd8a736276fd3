"""The contexts with the lowest and the highest mean L0 of all contexts read.

Shapes: M kept contexts, B counted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 8  # contexts at either end


@dataclass
class Extremes:
    """Contexts in the order of their numbers, with their counted tokens and the sum of those tokens' L0."""

    context_M: Tensor
    n_M: Tensor
    l0_M: Tensor

    @classmethod
    def find(cls, context_B: Tensor, l0_B: Tensor, least: int) -> Extremes:
        """Return the contexts with at least `least` counted tokens, not yet pruned."""
        context_M, at_B = torch.unique(context_B, return_inverse=True)
        n_M = torch.bincount(at_B, minlength=len(context_M))
        l0_M = torch.zeros_like(n_M).index_add_(0, at_B, l0_B)
        long_M = n_M >= least
        return cls(context_M[long_M], n_M[long_M], l0_M[long_M])

    def merge(self, other: Extremes) -> Extremes:
        """Merge the contexts of two disjoint sets, without pruning."""
        both = [torch.cat([getattr(self, name), getattr(other, name)]) for name in ("context_M", "n_M", "l0_M")]
        order = torch.argsort(both[0])
        return Extremes(*(column[order] for column in both))

    def prune(self) -> Extremes:
        """Keep the `KEPT` contexts at either end."""
        kept = torch.unique(torch.cat([self._order(False), self._order(True)]))
        return Extremes(self.context_M[kept], self.n_M[kept], self.l0_M[kept])

    def fewest(self) -> Tensor:
        """Return the contexts with the lowest mean L0, lowest first (ties: the lower number first)."""
        return self.context_M[self._order(False)]

    def most(self) -> Tensor:
        """Return the contexts with the highest mean L0, highest first, without those in `fewest`."""
        most = self.context_M[self._order(True)]
        return most[~torch.isin(most, self.fewest())]

    def _order(self, descending: bool) -> Tensor:
        mean_M = self.l0_M.double() / self.n_M
        return torch.argsort(mean_M, descending=descending, stable=True)[:KEPT]
