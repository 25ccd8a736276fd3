"""Counts by (latent, token), sparse and exactly mergeable.

A table is three parallel arrays sorted by key = latent · V + token.  Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PairCounts:
    """`n_N` occurrences of each (latent, token) and the largest activation among them."""

    key_N: Tensor  # int64, ascending, distinct
    n_N: Tensor  # int64
    max_N: Tensor  # float32

    @classmethod
    def count(cls, latent_N: Tensor, token_N: Tensor, value_N: Tensor, d_vocab: int) -> PairCounts:
        """Count firings: one row of the arguments is one (token, latent) pair of the text."""
        return _reduce(latent_N * d_vocab + token_N, torch.ones_like(latent_N), value_N)

    def merge(self, other: PairCounts) -> PairCounts:
        return _reduce(torch.cat([self.key_N, other.key_N]), torch.cat([self.n_N, other.n_N]),
                       torch.cat([self.max_N, other.max_N]))


def _reduce(key_N: Tensor, n_N: Tensor, max_N: Tensor) -> PairCounts:
    keys, where_N = torch.unique(key_N, return_inverse=True)
    count = torch.zeros(len(keys), dtype=torch.int64).index_add_(0, where_N, n_N)
    largest = torch.zeros(len(keys)).scatter_reduce_(0, where_N, max_N, "amax")
    return PairCounts(keys, count, largest)


@dataclass
class TopPairs:
    """The most frequent tokens of every latent, as a list a latent: rows sorted by latent, then count."""

    latent_N: Tensor
    token_N: Tensor
    n_N: Tensor
    max_N: Tensor
    lift_N: Tensor  # P(token | latent fires) / P(token)


def with_lift(pairs: PairCounts, latent_total_L: Tensor, token_total_V: Tensor) -> TopPairs:
    """All pairs, most frequent first within a latent (ties: lowest token), each with its lift.

    `latent_total_L`: the firings that a latent's pairs add up to; `token_total_V`: how often each
    token occurs among all tokens that could have been counted.
    """
    d_vocab = len(token_total_V)
    latent_N, token_N = pairs.key_N // d_vocab, pairs.key_N % d_vocab
    order = torch.argsort(pairs.n_N, descending=True, stable=True)
    order = order[torch.argsort(latent_N[order], stable=True)]
    latent_N, token_N, n_N = latent_N[order], token_N[order], pairs.n_N[order]
    given = n_N.double() / latent_total_L[latent_N]
    base = token_total_V[token_N].double() / token_total_V.sum()
    return TopPairs(latent_N, token_N, n_N, pairs.max_N[order], (given / base).float())


def rank_within(group_N: Tensor) -> Tensor:
    """0, 1, 2, … within each run of equal values of a sorted tensor."""
    _, counts = torch.unique_consecutive(group_N, return_counts=True)
    starts = counts.cumsum(0) - counts
    place_N: Tensor = torch.arange(len(group_N)) - starts.repeat_interleave(counts)
    return place_N
