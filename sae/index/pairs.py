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
        order = merged_order(torch.cat([self.key_N, other.key_N]))
        if not len(order):
            return self

        def both(name: str) -> Tensor:  # one after the other: together they are much of what a build holds
            return torch.cat([getattr(self, name), getattr(other, name)])[order]

        key, start = _runs(both("key_N").numpy())
        n_N, held_N = (torch.from_numpy(np.add.reduceat(both(name).numpy(), start)) for name in ("n_N", "held_N"))
        return PairCounts(torch.from_numpy(key), n_N, held_N, _largest(both("max_N"), start))


def merged_order(key_N: Tensor) -> Tensor:
    """The order that sorts a few sorted runs of int64, one after the other; equal ones stay in their order."""
    return torch.from_numpy(np.argsort(key_N.numpy(), kind="stable"))  # timsort, which merges runs


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
    group = group_N.numpy()
    start = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])[: len(group)])
    place = np.arange(len(group))
    place -= np.repeat(start, np.diff(start, append=len(group)))  # many times faster than torch's
    return torch.from_numpy(place)
