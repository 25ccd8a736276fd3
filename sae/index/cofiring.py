"""Which latents fire together, over the whole dictionary and from one pass.

For every latent the `n_kept` firing tokens with the lowest hash are kept, with all latents that
are active there.  The hash depends on the token's place in the text alone, so latents share
their samples, the sample of each is uniform, and shards merge exactly, in any order.  Of a
latent with at most `n_kept` firings the figures are exact; of the others estimates from so many.

    P(B | A)  share of A's kept tokens on which B is active
    φ         correlation of "A fires" and "B fires" over counted tokens, from P(B | A) and the densities

Shapes: T kept tokens, N (token, latent) pairs on them, L latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.kernels.hashing import hash31
from sae.kernels.segments import repeated, spread
from sae.kernels.sorting import counted, stable_argsort

SAMPLED = 64
MIN_TOGETHER = 3  # fewer joint firings in the sample are left out: chance gives them too easily
IMPLIED_SHARE = 0.9  # A ⇒ B where B is active on so large a share of A's tokens,
IMPLIED_LIFT = 2.0  # so many times as often as on any token,
IMPLIED_TOKENS = 10  # and A has so many kept tokens or more
_RUN_PAIRS = 1 << 17  # what stays in the cache
_SPARSE = 8  # so many possible pairs for each that is met: sorting them is faster than a counter for each


@dataclass
class CofiringSample:
    """Tokens in the order of their hash, each with the latents that are active on it."""

    token_T: Tensor  # int64, the token's place in the text: context · length + position
    size_T: Tensor  # int64, how many latents are active on it
    latent_N: Tensor  # int32, those latents, token by token

    @classmethod
    def find(cls, token_N: Tensor, latent_N: Tensor) -> CofiringSample:
        """Of firings in the order of the text: the tokens' places and the latents."""
        token_T, size_T = torch.unique_consecutive(token_N, return_counts=True)
        return cls(token_T, size_T, latent_N.int())._sorted()

    def merge(self, other: CofiringSample) -> CofiringSample:
        """Of two disjoint sets of tokens, not yet pruned."""
        return CofiringSample(torch.cat([self.token_T, other.token_T]), torch.cat([self.size_T, other.size_T]),
                       torch.cat([self.latent_N, other.latent_N]))._sorted()

    def prune(self, n_kept: int) -> CofiringSample:
        """Keep the tokens that are among the first `n_kept` of any latent, with all their latents."""
        needed_T = torch.zeros(len(self.token_T), dtype=torch.bool)
        needed_T[self.owner_N[self.first_N(n_kept)]] = True
        return self._taken(needed_T.nonzero().squeeze(1))

    @property
    def owner_N(self) -> Tensor:
        """Which token each pair belongs to."""
        return repeated(self.size_T)

    @property
    def start_T(self) -> Tensor:
        return self.size_T.cumsum(0) - self.size_T

    def first_N(self, n_kept: int) -> Tensor:
        """The pairs of each latent with its first `n_kept` tokens in the order of the hash; latent by latent."""
        order = stable_argsort(self.latent_N)
        size_L = torch.bincount(self.latent_N)
        first, _ = spread(size_L.cumsum(0) - size_L, size_L.clamp(max=n_kept))
        return order[first]

    def _sorted(self) -> CofiringSample:
        order = stable_argsort(self.token_T)
        return self._taken(order[stable_argsort(hash31(self.token_T[order]))])

    def _taken(self, row_T: Tensor) -> CofiringSample:
        pair_N, _ = spread(self.start_T[row_T], self.size_T[row_T])
        return CofiringSample(self.token_T[row_T], self.size_T[row_T], self.latent_N[pair_N])


@dataclass
class CofiringPairs:
    """Rows sorted by latent: `other` is active on a share `given` of the tokens on which `latent` fires."""

    latent_N: Tensor
    other_N: Tensor
    given_N: Tensor
    lift_N: Tensor  # given / P(other)
    phi_N: Tensor


def together(
    company: CofiringSample, density_L: Tensor, n_kept: int, check: Callable[[], None] = lambda: None
) -> tuple[CofiringPairs, Tensor]:
    """All pairs seen together often enough, and how many kept tokens each latent's figures rest on, [L]."""
    L = len(density_L)
    rows = company.first_N(n_kept)
    sampled_L = torch.bincount(company.latent_N[rows], minlength=L)
    owner_N, start_T = company.owner_N, company.start_T
    # Every pair (token, A) of A's sample meets all pairs of its token.
    parts: list[tuple[Tensor, Tensor]] = []
    for chosen in _cut(rows, company.latent_N[rows], company.size_T[owner_N[rows]].cumsum(0)):
        check()
        token, latent = owner_N[chosen], company.latent_N[chosen].long()
        met, by = spread(start_T[token], company.size_T[token])
        low, high = int(latent[0]), int(latent[-1])
        key, count = _frequent(((latent - low) * L)[by] + company.latent_N[met], (high - low + 1) * L)
        key += low * L
        other = key // L != key % L
        parts.append((key[other], count[other]))
    key, count = (torch.cat(column) for column in zip(*parts, strict=True)) if parts else (rows[:0], rows[:0])
    latent_N, other_N = key // L, key % L
    given_N = count.double() / sampled_L[latent_N]
    p, q = density_L[latent_N], density_L[other_N]
    phi_N = p * (given_N - q) / (p * (1 - p) * q * (1 - q)).sqrt()
    return CofiringPairs(latent_N, other_N, given_N, given_N / q, phi_N.nan_to_num(0.0)), sampled_L


def implied(pairs: CofiringPairs, sampled_L: Tensor) -> Tensor:
    """Whether `latent` fires ⇒ `other` fires, for every pair: what feature splitting looks like."""
    return ((pairs.given_N >= IMPLIED_SHARE) & (pairs.lift_N >= IMPLIED_LIFT)
            & (sampled_L[pairs.latent_N] >= IMPLIED_TOKENS))


def _frequent(key_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The numbers below `size` that occur often enough, ascending, and how often each does."""
    if size > _SPARSE * len(key_N):
        key, count = counted(key_N)
        often = count >= MIN_TOGETHER
        return key[often], count[often]
    count = torch.bincount(key_N, minlength=size)
    key = torch.from_numpy(np.flatnonzero(count.numpy() >= MIN_TOGETHER))
    return key, count[key]


def _cut(rows: Tensor, latent_N: Tensor, ends: Tensor) -> list[Tensor]:
    """The rows in runs of whole latents, of about `_RUN_PAIRS` meetings each."""
    if not len(rows):
        return []
    part_N = (ends - 1) // _RUN_PAIRS
    first_of_latent = torch.cat([torch.tensor([True]), latent_N[1:] != latent_N[:-1]])
    begin = first_of_latent.nonzero().squeeze(1)
    sizes = torch.diff(begin, append=torch.tensor([len(rows)]))
    _, lengths = torch.unique_consecutive(part_N[begin].repeat_interleave(sizes), return_counts=True)
    return list(torch.split(rows, lengths.tolist()))
