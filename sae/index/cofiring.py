"""Co-firing of all latents, estimated from one pass.

Every latent keeps the `n_kept` firing tokens with the lowest hash, with all latents that are active
there.  The hash depends only on the token's position in the text.  So latents share their samples, each
sample is uniform, and shards merge exactly in any order.  The figures are exact for a latent with
at most `n_kept` firings, and estimates from `n_kept` tokens for the others.

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
from sae.kernels.sorting import counted, paired, stable_argsort
from sae.store.intervals import share_interval

SAMPLED = 64
MIN_TOGETHER = 3  # pairs with fewer joint firings in the sample are left out, since chance gives them easily
# A ⇒ B if B is active on at least this share of A's tokens (by the lower end of a 95% interval where A has more
# tokens than are kept), at least this many times as often as on any token, and A has at least this many kept tokens.
IMPLIED_SHARE = 0.9
IMPLIED_LIFT = 2.0
IMPLIED_TOKENS = 10
_RUN_PAIRS = 1 << 17  # pairs counted at a time, so that they stay in the cache
_SPARSE = 8  # possible pairs per observed pair above which sorting is faster than a counter for each


@dataclass
class CofiringSample:
    """Tokens in the order of their hash, each with the latents that are active on it."""

    token_T: Tensor  # int64, the token's position in the text: context · length + position
    size_T: Tensor  # int64, number of latents active on the token
    latent_N: Tensor  # int32, the active latents, token by token

    @classmethod
    def find(cls, token_N: Tensor, latent_N: Tensor) -> CofiringSample:
        """Collect firings, given in the order of the text as token positions and latents."""
        token_T, size_T = torch.unique_consecutive(token_N, return_counts=True)
        return cls(token_T, size_T, latent_N.int())._sorted()

    def merge(self, other: CofiringSample) -> CofiringSample:
        """Merge the samples of two disjoint sets of tokens, without pruning."""
        return CofiringSample(torch.cat([self.token_T, other.token_T]), torch.cat([self.size_T, other.size_T]),
                       torch.cat([self.latent_N, other.latent_N]))._sorted()

    def prune(self, n_kept: int) -> CofiringSample:
        """Keep the tokens that are among the first `n_kept` of any latent, with all their latents."""
        needed_T = torch.zeros(len(self.token_T), dtype=torch.bool)
        needed_T[self.owner_N[self.first_N(n_kept)]] = True
        return self._taken(needed_T.nonzero().squeeze(1))

    @property
    def owner_N(self) -> Tensor:
        """Return the number of the token that each pair belongs to."""
        return repeated(self.size_T)

    @property
    def start_T(self) -> Tensor:
        return self.size_T.cumsum(0) - self.size_T

    def first_N(self, n_kept: int) -> Tensor:
        """Return the pairs of each latent with its first `n_kept` tokens in the order of the hash, by latent."""
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
    """Pairs sorted by latent: `other` is active on a share `given` of the tokens on which `latent` fires."""

    latent_N: Tensor
    other_N: Tensor
    given_N: Tensor
    lift_N: Tensor  # given / P(other)
    phi_N: Tensor


def cofiring_pairs(
    sample: CofiringSample, density_L: Tensor, n_kept: int, check: Callable[[], None] = lambda: None
) -> tuple[CofiringPairs, Tensor]:
    """Return all pairs that fire together often enough, and the number of kept tokens of each latent, [L]."""
    L = len(density_L)
    rows = sample.first_N(n_kept)
    sampled_L = torch.bincount(sample.latent_N[rows], minlength=L)
    owner_N, start_T = sample.owner_N, sample.start_T
    # Every pair (token, A) of A's sample is joined with all pairs of its token.
    parts: list[tuple[Tensor, Tensor]] = []
    for chosen in _cut(rows, sample.latent_N[rows], sample.size_T[owner_N[rows]].cumsum(0)):
        check()
        token, latent = owner_N[chosen], sample.latent_N[chosen].long()
        joint, by = spread(start_T[token], sample.size_T[token])
        low, high = int(latent[0]), int(latent[-1])
        pair_N = paired(latent - low, high - low + 1, torch.zeros((), dtype=torch.int32), L).index_select(0, by)
        pair_N += sample.latent_N.index_select(0, joint)
        key, count = _frequent(pair_N, (high - low + 1) * L)
        key += low * L
        other = key // L != key % L
        parts.append((key[other], count[other]))
    key, count = (torch.cat(column) for column in zip(*parts, strict=True)) if parts else (rows[:0], rows[:0])
    latent_N, other_N = key // L, key % L
    given_N = count.double() / sampled_L[latent_N]
    p, q = density_L[latent_N], density_L[other_N]
    phi_N = p * (given_N - q) / (p * (1 - p) * q * (1 - q)).sqrt()
    return CofiringPairs(latent_N, other_N, given_N, given_N / q, phi_N.nan_to_num(0.0)), sampled_L


def implied(pairs: CofiringPairs, sampled_L: Tensor, n_tokens_L: Tensor) -> Tensor:
    """Return for every pair whether `latent` fires ⇒ `other` fires, the pattern that feature splitting leaves.

    `n_tokens_L` is the number of all firings; where it exceeds `sampled_L`, P(other | latent) is an estimate.
    """
    sampled_N = sampled_L[pairs.latent_N]
    low, _ = share_interval(pairs.given_N.numpy(), sampled_N.double().numpy())
    sure_N = torch.where(n_tokens_L[pairs.latent_N] > sampled_N, torch.from_numpy(low), pairs.given_N)
    return (sure_N >= IMPLIED_SHARE) & (pairs.lift_N >= IMPLIED_LIFT) & (sampled_N >= IMPLIED_TOKENS)


def _frequent(key_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the numbers below `size` that occur often enough, in ascending order, and their counts."""
    if size > _SPARSE * len(key_N):
        key, count = counted(key_N)
        often = count >= MIN_TOGETHER
        return key[often], count[often]
    count = torch.bincount(key_N, minlength=size)
    key = torch.from_numpy(np.flatnonzero(count.numpy() >= MIN_TOGETHER))
    return key, count[key]


def _cut(rows: Tensor, latent_N: Tensor, ends: Tensor) -> list[Tensor]:
    """Split the rows into runs of whole latents with about `_RUN_PAIRS` joint pairs each."""
    if not len(rows):
        return []
    part_N = (ends - 1) // _RUN_PAIRS
    first_of_latent = torch.cat([torch.tensor([True]), latent_N[1:] != latent_N[:-1]])
    begin = first_of_latent.nonzero().squeeze(1)
    sizes = torch.diff(begin, append=torch.tensor([len(rows)]))
    _, lengths = torch.unique_consecutive(part_N[begin].repeat_interleave(sizes), return_counts=True)
    return list(torch.split(rows, lengths.tolist()))
