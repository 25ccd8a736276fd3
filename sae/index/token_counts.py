"""Counts by (latent, token), sparse and exactly mergeable.

A table is three parallel arrays sorted by key = latent · V + token.  Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.kernels.segments import run_sizes, run_starts
from sae.kernels.sorting import merged_order, paired, stable_argsort, stable_sort


@dataclass
class PairCounts:
    """Counts `n_N` of each (latent, token), and the largest activation among them."""

    key_N: Tensor  # int64, ascending, distinct
    n_N: Tensor  # int64
    held_N: Tensor  # int64: how many of the occurrences are in the half of the text that rules are scored on
    max_N: Tensor  # float32

    @classmethod
    def count(
        cls, latent_N: Tensor, n_latents: int, token_N: Tensor, d_vocab: int, value_N: Tensor, held_N: Tensor
    ) -> PairCounts:
        """Count firings: one row of the arguments is one (token, latent) pair of the text."""
        if not len(latent_N):
            none = torch.zeros(0, dtype=torch.int64)
            return cls(none, none, none, value_N)
        # The half of the text is the key's last bit, so that one sort orders both.
        key_N, order = stable_sort(paired(latent_N, n_latents, token_N << 1 | held_N, 2 * d_vocab))
        held_N, key_N = key_N & 1, key_N >> 1
        start = run_starts(key_N)
        return cls(key_N[start].long(), run_sizes(start, len(key_N)), _totals(held_N, start),
                   _largest(value_N.index_select(0, order), start))

    def merge(self, other: PairCounts) -> PairCounts:
        """Add the counts of two disjoint pieces of text."""
        order = merged_order(torch.cat([self.key_N, other.key_N]))
        if not len(order):
            return self

        def both(name: str) -> Tensor:  # one column at a time, to save memory
            return torch.cat([getattr(self, name), getattr(other, name)])[order]

        key_N = both("key_N")
        start = run_starts(key_N)
        n_N, held_N = (_totals(both(name), start) for name in ("n_N", "held_N"))
        return PairCounts(key_N[start], n_N, held_N, _largest(both("max_N"), start))


def _totals(n_N: Tensor, start: Tensor) -> Tensor:
    return torch.from_numpy(np.add.reduceat(n_N.numpy(), start.numpy(), dtype=np.int64))


def _largest(value_N: Tensor, start: Tensor) -> Tensor:
    return torch.from_numpy(np.maximum.reduceat(value_N.numpy(), start.numpy()))


@dataclass
class TopPairs:
    """The most frequent tokens of every latent: rows sorted by latent, then by falling count."""

    latent_N: Tensor
    token_N: Tensor
    n_N: Tensor
    max_N: Tensor
    lift_N: Tensor  # P(token | latent fires) / P(token)


def with_lift(pairs: PairCounts, latent_total_L: Tensor, token_total_V: Tensor) -> TopPairs:
    """Return all pairs with their lift, most frequent first within a latent (ties: lowest token).

    `latent_total_L` is the number of firings that a latent's pairs add up to.  `token_total_V` says
    how often each token occurs among all tokens that could have been counted.
    """
    d_vocab = len(token_total_V)
    latent_N, token_N = pairs.key_N // d_vocab, pairs.key_N % d_vocab
    order = stable_argsort(latent_N << 32 | ((1 << 32) - 1 - pairs.n_N))  # stable: equal counts stay in order of token
    latent_N, token_N, n_N = latent_N[order], token_N[order], pairs.n_N[order]
    given = n_N.double() / latent_total_L[latent_N]
    base = token_total_V[token_N].double() / token_total_V.sum()
    return TopPairs(latent_N, token_N, n_N, pairs.max_N[order], (given / base).float())
