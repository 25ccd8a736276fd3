"""The contexts of a latent that a scan keeps: its strongest, and a uniform sample of every activation bin.

A *peak* is the strongest firing of one latent in one context (ties: the earliest).  Each latent keeps
its `n_strong` strongest peaks, and in each bin of the activation histogram the `n_bin` peaks with
the lowest hash of (latent, context).  The hash does not depend on the order of the text, so both
rules are associative, and shards merge exactly in any order.  A union of bins also holds its lowest
hashes, because every bin does; so a band of bins has a uniform sample.

The other firings in kept contexts are kept as the payload.  Shapes: N rows, M firings of the payload.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from sae.kernels.hashing import hash31
from sae.kernels.segments import rank_within, repeated, run_sizes, run_starts, spread
from sae.kernels.sorting import merged_order, paired, stable_argsort, stable_sort

_CONTEXT_BITS = 32


@dataclass
class Peaks:
    """Rows sorted by key = latent << 32 | context, and their payload: row by row, in the order of the text."""

    key_N: Tensor  # int64, distinct
    position_N: Tensor  # int32, position in the context
    value_N: Tensor  # float32
    bin_N: Tensor  # int32, bin of the activation histogram
    size_N: Tensor  # int64, number of firings in the payload
    payload_position_M: Tensor
    payload_value_M: Tensor

    @property
    def latent_N(self) -> Tensor:
        return self.key_N >> _CONTEXT_BITS

    @property
    def context_N(self) -> Tensor:
        return self.key_N & ((1 << _CONTEXT_BITS) - 1)

    @classmethod
    def find(
        cls, n_latents: int, latent_M: Tensor, context_M: Tensor, position_M: Tensor, value_M: Tensor, edges: Tensor
    ) -> Peaks:
        """Find the peaks among firings in the order of the text, and keep all firings as payload.

        `edges` holds the upper edges of all bins but the last.
        """
        # Sorting small numbers in the order of the keys is faster than sorting the 64-bit keys.
        context_R, size_R = torch.unique_consecutive(context_M, return_counts=True)
        distinct, rank_R = torch.unique(context_R, return_inverse=True)
        rank_M, columns = rank_R.int().repeat_interleave(size_R), max(len(distinct), 1)
        cell_M, order = stable_sort(paired(latent_M, n_latents, rank_M, columns))
        position_M, value_M = position_M.int().index_select(0, order), value_M.index_select(0, order)
        start = run_starts(cell_M)
        size_N = run_sizes(start, len(cell_M))
        cell_N = cell_M[start].long()
        key_N = cell_N // columns << _CONTEXT_BITS | distinct[cell_N % columns].long()
        first = _first_strongest(value_M, start, size_N)
        return cls(key_N, position_M[first], value_M[first], torch.bucketize(value_M[first], edges, out_int32=True),
                   size_N, position_M, value_M)

    def without_payload(self) -> Peaks:
        """Return the rows without their payload."""
        return replace(self, size_N=torch.zeros_like(self.size_N), payload_position_M=self.payload_position_M[:0],
                       payload_value_M=self.payload_value_M[:0])

    def joined(self, other: Peaks) -> Peaks:
        """Concatenate the rows of both, `other` last, without sorting."""
        return Peaks(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def merge(self, other: Peaks) -> Peaks:
        """Merge the peaks of two disjoint sets of contexts, without pruning."""
        both = self.joined(other)
        return both.taken(merged_order(both.key_N))

    def prune(self, n_strong: int, n_bin: int, n_bins: int) -> Peaks:
        """Keep the rows that either rule keeps, with their payload."""
        keep = sample_rank(self.key_N, self.latent_N * n_bins + self.bin_N) < n_bin
        if n_strong:
            keep |= self.strength_rank() < n_strong
        return self.taken(keep.nonzero().squeeze(1))

    def taken(self, row_R: Tensor) -> Peaks:
        """Return some of the rows, in the given order."""
        at, _ = self.payload(row_R)
        return Peaks(**{f.name: getattr(self, f.name).index_select(0, at if f.name.startswith("payload") else row_R)
                        for f in fields(self)})

    def payload(self, row_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return the payload's indices for some rows, row after row, and for each index the number of its row."""
        return spread((self.size_N.cumsum(0) - self.size_N)[row_R], self.size_N[row_R])

    def strength_rank(self) -> Tensor:
        """Return the rank of each row among its latent's peaks, strongest first (ties: the lowest context)."""
        # Positive floats sort like their bit patterns.
        falling = (1 << 31) - 1 - self.value_N.contiguous().view(torch.int32).long()
        return _rank(self.latent_N, falling)


def sample_rank(key_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the rank of each key within its group in the order of the hash: a reproducible shuffle."""
    return _rank(group_N, hash31(key_N))


def _first_strongest(value_M: Tensor, start_N: Tensor, size_N: Tensor) -> Tensor:
    """Return the index of the first largest value of each run."""
    if not len(value_M):
        return start_N
    run_M = repeated(size_N)
    largest_M = torch.from_numpy(np.maximum.reduceat(value_M.numpy(), start_N.numpy()))[run_M]
    at = (value_M == largest_M).nonzero().squeeze(1)
    return at[run_starts(run_M[at])]


def _rank(group_N: Tensor, priority_N: Tensor) -> Tensor:
    """Rank rows within their group by a priority of 31 bits, lowest first; ties keep their order."""
    order = stable_argsort(group_N << 31 | priority_N)
    out = torch.empty_like(order)
    out[order] = rank_within(group_N[order])
    return out

