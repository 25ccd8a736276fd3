"""Which contexts of a latent are kept: its strongest, and a fair sample of every activation bin.

A *peak* is the strongest firing of one latent in one context (ties: the earliest).  Kept are,
for each latent, the `n_strong` strongest peaks, and in each bin of the activation histogram the
`n_bin` peaks with the lowest hash of (latent, context).  The hash does not depend on the order
of the text, so both rules are associative: shards merge exactly, in any order.  Because every
bin holds its lowest hashes, so does any union of bins: a uniform sample of a band of bins.

The other firings in kept contexts travel along as the payload.  Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sae.index.pairs import merged_order, rank_within
from sae.kernels.sorting import stable_argsort

_CONTEXT_BITS = 32


@dataclass
class Peaks:
    """Rows sorted by key = latent << 32 | context.  The payload rows too, then by position."""

    key_N: Tensor  # int64, distinct
    position_N: Tensor  # int32, where in the context
    value_N: Tensor  # float32
    bin_N: Tensor  # int32, of the activation histogram
    payload_key_M: Tensor
    payload_position_M: Tensor
    payload_value_M: Tensor

    @property
    def latent_N(self) -> Tensor:
        return self.key_N >> _CONTEXT_BITS

    @property
    def context_N(self) -> Tensor:
        return self.key_N & ((1 << _CONTEXT_BITS) - 1)

    @classmethod
    def find(cls, latent_M: Tensor, context_M: Tensor, position_M: Tensor, value_M: Tensor, bin_M: Tensor) -> Peaks:
        """The peaks among firings, with all firings as payload."""
        key_M = latent_M << _CONTEXT_BITS | context_M
        # Firings come in order of position.  Sorted are numbers as small as they can be, in the order of the keys.
        context_R, size_R = torch.unique_consecutive(context_M, return_counts=True)
        distinct, rank_R = torch.unique(context_R, return_inverse=True)
        order = stable_argsort(latent_M * len(distinct) + rank_R.repeat_interleave(size_R))
        key_M, position_M, value_M = (column.index_select(0, order) for column in (key_M, position_M.int(), value_M))
        first = _first_strongest(key_M, value_M)
        return cls(key_M[first], position_M[first], value_M[first], bin_M[order[first]].int(),
                   key_M, position_M, value_M)

    @classmethod
    def alone(cls, latent_M: Tensor, context_M: Tensor, position_M: Tensor, value_M: Tensor) -> Peaks:
        """The peaks without a payload, all of one bin."""
        found = cls.find(latent_M, context_M, position_M, value_M, torch.zeros_like(latent_M))
        return cls(found.key_N, found.position_N, found.value_N, found.bin_N,
                   found.payload_key_M[:0], found.payload_position_M[:0], found.payload_value_M[:0])

    def merge(self, other: Peaks) -> Peaks:
        """The peaks of two disjoint sets of contexts, not yet pruned."""
        order = {key: merged_order(torch.cat([getattr(self, key), getattr(other, key)]))
                 for key in ("key_N", "payload_key_M")}

        def both(name: str) -> Tensor:
            order_N = order["payload_key_M" if name.startswith("payload") else "key_N"]
            return torch.cat([getattr(self, name), getattr(other, name)])[order_N]

        return Peaks(*(both(f.name) for f in fields(self)))

    def prune(self, n_strong: int, n_bin: int, n_bins: int) -> Peaks:
        """Keep what the two rules keep, and the payload of that."""
        keep = self.sample_rank(self.latent_N * n_bins + self.bin_N) < n_bin
        if n_strong:
            keep |= self.strength_rank() < n_strong
        payload = torch.zeros(0, dtype=torch.int64)
        if len(self.payload_key_M):  # then every row has its run there, in the same order
            start = np.flatnonzero(np.diff(self.payload_key_M.numpy(), prepend=-1))
            size = np.diff(start, append=len(self.payload_key_M))
            payload = torch.from_numpy(np.flatnonzero(np.repeat(keep.numpy(), size)))
        return Peaks(self.key_N[keep], self.position_N[keep], self.value_N[keep], self.bin_N[keep],
                     *(column.index_select(0, payload) for column in (
                         self.payload_key_M, self.payload_position_M, self.payload_value_M)))

    def strength_rank(self) -> Tensor:
        """Place of each row among its latent's peaks, strongest first; ties: the lowest context."""
        # Positive floats sort like their bit patterns.
        falling = (1 << 31) - 1 - self.value_N.contiguous().view(torch.int32).long()
        return _rank(self.latent_N, falling)

    def sample_rank(self, group_N: Tensor) -> Tensor:
        """Place of each row within its group in the order of the hash: a reproducible shuffle."""
        return _rank(group_N, hash31(self.key_N))


def _first_strongest(key_M: Tensor, value_M: Tensor) -> Tensor:
    """Of each run of equal keys, where its largest value stands first."""
    if not len(key_M):
        return torch.zeros(0, dtype=torch.int64)
    start = np.flatnonzero(np.diff(key_M.numpy(), prepend=-1))
    run_M = torch.arange(len(start)).repeat_interleave(torch.from_numpy(np.diff(start, append=len(key_M))))
    largest_M = torch.from_numpy(np.maximum.reduceat(value_M.numpy(), start))[run_M]
    at = (value_M == largest_M).nonzero().squeeze(1)
    return at[torch.diff(run_M[at], prepend=torch.tensor([-1])) > 0]


def _rank(group_N: Tensor, priority_N: Tensor) -> Tensor:
    """Rank within the group by a priority of 31 bits, lowest first; ties keep their order."""
    order = stable_argsort(group_N << 31 | priority_N)
    out = torch.empty_like(order)
    out[order] = rank_within(group_N[order])
    return out


def hash31(key_N: Tensor) -> Tensor:
    """31 well-mixed bits of an int64 (xor-shift and multiply, wrapping)."""
    x = key_N.clone()
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ (x >> shift)) * factor
    return (x ^ (x >> 31)) & 0x7FFFFFFF
