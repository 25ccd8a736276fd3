"""Counts by (latent, token), sparse and exactly mergeable.

A table is three parallel arrays sorted by key = latent · V + token.  Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.kernels.sorting import stable_argsort


@dataclass
class PairCounts:
    """`n_N` occurrences of each (latent, token), and the largest activation among them."""

    key_N: Tensor  # int64, ascending, distinct
    n_N: Tensor  # int64
    held_N: Tensor  # int64: how many of them in the half of the text that rules are scored on
    max_N: Tensor  # float32

    @classmethod
    def count(
        cls, latent_N: Tensor, token_N: Tensor, value_N: Tensor, held_N: Tensor, d_vocab: int
    ) -> PairCounts:
        """Count firings: one row of the arguments is one (token, latent) pair of the text."""
        return _reduce(latent_N * d_vocab + token_N, torch.ones_like(latent_N), held_N.long(), value_N)

    def merge(self, other: PairCounts) -> PairCounts:
        return _reduce(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))


def _reduce(key_N: Tensor, n_N: Tensor, held_N: Tensor, max_N: Tensor) -> PairCounts:
    if not len(key_N):
        return PairCounts(key_N, n_N, held_N, max_N)
    order = stable_argsort(key_N)
    key_N = key_N[order]
    start = np.flatnonzero(np.diff(key_N.numpy(), prepend=-1))

    def total(column_N: Tensor) -> Tensor:
        return torch.from_numpy(np.add.reduceat(column_N[order].numpy(), start))

    largest = torch.from_numpy(np.maximum.reduceat(max_N[order].numpy(), start))
    return PairCounts(key_N[torch.from_numpy(start)], total(n_N), total(held_N), largest)


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
    order = stable_argsort(latent_N << 32 | ((1 << 32) - 1 - pairs.n_N))  # a latent's own stay in order of token
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
