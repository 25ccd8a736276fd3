"""Counts by (latent, token), sparse and exactly mergeable.

A table is three parallel arrays sorted by key = latent · V + token.  Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.kernels.sorting import stable_argsort, stable_sort


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
        if not len(latent_N):
            return cls(latent_N, latent_N, latent_N, value_N)
        # The half of the text is the key's last bit, so that it comes out of the sort in place.
        key_N, order = stable_sort((latent_N * d_vocab + token_N) << 1 | held_N)
        held = key_N.numpy() & 1
        key, start = _runs(key_N.numpy() >> 1)
        n = np.diff(start, append=len(order))
        return cls(torch.from_numpy(key), torch.from_numpy(n),
                   torch.from_numpy(np.add.reduceat(held, start, dtype=np.int64)),
                   _largest(value_N.index_select(0, order), start))

    def merge(self, other: PairCounts) -> PairCounts:
        key_N, n_N, held_N, max_N = (
            torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True))
        if not len(key_N):
            return self
        sorted_N, order = stable_sort(key_N)
        key, start = _runs(sorted_N.numpy())

        def total(column_N: Tensor) -> Tensor:
            return torch.from_numpy(np.add.reduceat(column_N[order].numpy(), start))

        return PairCounts(torch.from_numpy(key), total(n_N), total(held_N), _largest(max_N[order], start))


def _runs(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of sorted integers as int64, and where each begins."""
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    return key[start].astype(np.int64), start


def _largest(value_N: Tensor, start: np.ndarray) -> Tensor:
    return torch.from_numpy(np.maximum.reduceat(value_N.numpy(), start))


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
