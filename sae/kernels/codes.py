"""A sparse latent code, and the products that need only its selected pairs.

Shapes: B tokens, L latents, D width, N selected (token, latent) pairs, sorted by token.
Nothing here is of size B x L.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.kernels.device import on_gpu
from sae.kernels.sorting import stable_argsort

T = TypeVar("T")
_GATHERED = 1 << 24  # most numbers in the rows that are gathered at once

with warnings.catch_warnings():  # torch warns once per process that CSR tensors are in beta; it does so here
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), dtype=torch.float32)


@dataclass
class Codes:
    """Triplets (token, latent, value), sorted by token; `value` is float32.

    If `padded`, the last pairs may be empty: token B, latent L, value 0.  A selection on a GPU leaves them where their
    number is not known to the host.  All methods leave them out of sums and counts.
    """

    token_N: Tensor
    latent_N: Tensor
    value_N: Tensor
    n_tokens: int
    n_latents: int
    padded: bool = False
    _of_pairs: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # computed once for all values

    @classmethod
    def from_flat(cls, flat_N: Tensor, value_N: Tensor, n_tokens: int, n_latents: int) -> Codes:
        """Make codes from ascending indices into the flattened [B, L] matrix."""
        token_N = torch.div(flat_N, n_latents, rounding_mode="floor")
        return cls(token_N, flat_N - token_N * n_latents, value_N, n_tokens, n_latents)

    @classmethod
    def concatenate(cls, parts: list[Codes]) -> Codes:
        """Join the codes of consecutive runs of tokens."""
        if len(parts) == 1:
            return parts[0]
        starts = [0, *accumulate(part.n_tokens for part in parts)]
        token_N = torch.cat([part.token_N + start for part, start in zip(parts, starts, strict=False)])
        return cls(token_N, torch.cat([part.latent_N for part in parts]), torch.cat([part.value_N for part in parts]),
                   starts[-1], parts[0].n_latents)

    def with_values(self, value_N: Tensor) -> Codes:
        """Return the same pairs with other values."""
        return Codes(self.token_N, self.latent_N, value_N, self.n_tokens, self.n_latents, self.padded, self._of_pairs)

    def where(self, keep_N: Tensor) -> Codes:
        """Return the pairs for which `keep_N` is true."""
        kept = keep_N.nonzero().squeeze(1)
        return Codes(self.token_N.index_select(0, kept), self.latent_N.index_select(0, kept),
                     self.value_N.index_select(0, kept), self.n_tokens, self.n_latents)

    def kept(self, keep_N: Tensor, at_most: int | None = None) -> Codes:
        """Return `where`; on a GPU without a wait, so that the last of its `at_most` pairs may be empty."""
        if not on_gpu(self.value_N):
            return self.where(keep_N)
        n = len(self.value_N) if at_most is None else at_most
        keep_N = keep_N.bool() & (self.token_N < self.n_tokens)
        place_N = torch.where(keep_N, keep_N.cumsum(0) - 1, n)  # all others go into one further place

        def packed(column_N: Tensor, filler: float) -> Tensor:
            return column_N.new_full((n + 1,), filler).scatter_(0, place_N, column_N)[:n]

        return Codes(
            packed(self.token_N, self.n_tokens), packed(self.latent_N, self.n_latents), packed(self.value_N, 0.0),
            self.n_tokens, self.n_latents, padded=True)

    def l0_B(self) -> Tensor:
        """Count the active latents of each token."""
        if self.token_N.device.type != "cpu":
            return self.bounds_B1.diff()
        return torch.bincount(self.token_N, minlength=self.n_tokens)

    def fired_L(self) -> Tensor:
        """Return which latents are active on any token."""
        if on_gpu(self.value_N):
            return self.bounds_L1.diff() > 0
        if self.value_N.device.type == "cpu":
            return torch.bincount(self.latent_N, minlength=self.n_latents) > 0
        return torch.zeros(self.n_latents, dtype=torch.bool, device=self.value_N.device).index_fill_(
            0, self.latent_N, True)

    def least(self) -> Tensor:
        """Return the smallest value, a zero-dimensional tensor; infinite without any pair."""
        if not len(self.value_N):
            return self.value_N.new_full((), math.inf)
        value_N = torch.where(self.token_N < self.n_tokens, self.value_N, math.inf) if self.padded else self.value_N
        return value_N.min()

    def latent_sum_L(self) -> Tensor:
        """Sum the values of each latent."""
        if on_gpu(self.value_N):  # index_add_ would add in an arbitrary order there
            from sae.kernels.triton_codes import segment_sums

            order_N, bounds_L1, latent_N = self._by_latent
            return segment_sums(None, self.value_N, bounds_L1, latent_N, _one(order_N.device), order_N)[:, 0]
        out = torch.zeros(self.n_latents, device=self.value_N.device)
        return out.index_add_(0, self.latent_N, self.value_N)

    def decode(self, W_LD: Tensor) -> Tensor:
        """Return Σ value · W[latent] for each token, [B, D]."""
        if on_gpu(W_LD):
            from sae.kernels.triton_codes import segment_sums

            return segment_sums(self.latent_N, self.value_N, self.bounds_B1, self.token_N, W_LD)
        return F.embedding_bag(self.latent_N, W_LD, self.offset_B, mode="sum", per_sample_weights=self.value_N)

    def transpose_matmul(self, x_BD: Tensor, out_LD: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Return scale · codesᵀ · x, [L, D]: the gradient of a weight with one row per latent.

        The result may be written into `out_LD`, because allocating large fresh memory costs as much as the product.
        """
        order_N, offset_L, other_N = self._by_latent
        if on_gpu(x_BD):
            from sae.kernels.triton_codes import segment_sums

            return segment_sums(self.token_N, self.value_N, offset_L, other_N, x_BD, order_N, out_LD, scale)
        token_N, value_N = other_N, (self.value_N if scale == 1.0 else self.value_N * scale)[order_N]
        if x_BD.device.type != "cpu" or x_BD.dtype != torch.float32 or not _mkl():
            return F.embedding_bag(token_N, x_BD, offset_L, mode="sum", per_sample_weights=value_N)
        transposed = _csr(offset_L, token_N, value_N, (self.n_latents, self.n_tokens))
        if out_LD is None:
            out_LD = x_BD.new_empty(self.n_latents, x_BD.shape[1])
        return torch.addmm(out_LD, transposed, x_BD, beta=0.0, out=out_LD)

    def sampled_product(self, x_BD: Tensor, W_LD: Tensor, scale: float = 1.0) -> Tensor:
        """Return scale · x[token] · W[latent] for every selected pair, [N], without the dense [B, L] product.

        It is 0 for an empty pair.
        """
        if on_gpu(W_LD):
            from sae.kernels.triton_codes import sampled_product

            return sampled_product(self.token_N, self.latent_N, x_BD, W_LD, scale)
        if W_LD.device.type != "cpu":
            return self._gathered_product(x_BD, W_LD).mul_(scale)
        # In the order of latents each row of the larger matrix, W, is fetched from memory once.
        order_N, offset_L, token_N = self._by_latent
        pattern = _csr(offset_L, token_N, torch.zeros_like(self.value_N), (self.n_latents, self.n_tokens))
        sampled_N: Tensor = torch.sparse.sampled_addmm(pattern, W_LD.detach(), x_BD.T, beta=0.0).values()
        if scale != 1.0:
            sampled_N.mul_(scale)
        return torch.empty_like(sampled_N).index_copy_(0, order_N, sampled_N)

    def _gathered_product(self, x_BD: Tensor, W_LD: Tensor) -> Tensor:
        """Return x[token] · W[latent] from gathered rows, because Apple's GPUs have no sparse products."""
        pairs = max(1, _GATHERED // x_BD.shape[1])
        parts = [(x_BD.index_select(0, token_P) * W_LD.detach().index_select(0, latent_P)).sum(dim=1)
                 for token_P, latent_P in zip(
                     torch.split(self.token_N, pairs), torch.split(self.latent_N, pairs), strict=True)]
        return torch.cat(parts)

    @property
    def offset_B(self) -> Tensor:
        """Return the index of each token's first pair."""
        if self.token_N.device.type != "cpu":
            return self.bounds_B1[:-1]
        return self._once("offset_B", lambda: _starts(self.l0_B()))

    @property
    def bounds_B1(self) -> Tensor:
        """Return the index of each token's first pair, and the number of pairs, [B + 1].  The host does not wait."""
        return self._once("bounds_B1", lambda: torch.searchsorted(
            self.token_N, _range(self.n_tokens + 1, torch.int64, self.token_N.device)))

    @property
    def bounds_L1(self) -> Tensor:
        """Return where each latent's pairs begin in their order by latent, and the number of pairs.  Only on a GPU."""
        return self._by_latent[1]

    @property
    def _by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._once("by_latent", self._sorted_by_latent)

    def _once(self, name: str, compute: Callable[[], T]) -> T:
        """Return what depends on the pairs alone, computed when it is first needed."""
        if name not in self._of_pairs:
            self._of_pairs[name] = compute()
        found: T = self._of_pairs[name]
        return found

    def _sorted_by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the order of the pairs by latent, each latent's first pair in it, and the tokens in it.

        With Triton the second has also the number of pairs, [L + 1], and the third are the latents in that order.
        """
        if on_gpu(self.latent_N):
            latent_N, order_N = torch.sort(self.latent_N.int(), stable=True)
            all_L1 = _range(self.n_latents + 1, torch.int32, latent_N.device)
            return order_N, torch.searchsorted(latent_N, all_L1), latent_N
        order_N = stable_argsort(self.latent_N)
        if self.latent_N.device.type != "cpu":  # counting would make the host wait
            all_L = _range(self.n_latents, torch.int64, self.latent_N.device)
            return order_N, torch.searchsorted(self.latent_N[order_N], all_L), self.token_N[order_N]
        counts_L = torch.bincount(self.latent_N, minlength=self.n_latents)
        return order_N, _starts(counts_L), self.token_N[order_N]


@lru_cache(maxsize=16)
def _range(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 0 … n − 1; every step needs the same ones."""
    return torch.arange(n, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _one(device: torch.device) -> Tensor:
    """Return the matrix [1, 1] of which a sum of values is the multiple."""
    return torch.ones(1, 1, device=device)


def _starts(counts: Tensor) -> Tensor:
    return counts.cumsum(0) - counts


def _csr(start: Tensor, column_N: Tensor, value_N: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a sparse matrix whose rows begin at `start`."""
    row_ends = torch.cat([start, start.new_tensor([len(column_N)])])
    return torch.sparse_csr_tensor(row_ends, column_N, value_N, shape, check_invariants=False)


def _mkl() -> bool:
    """Return whether torch was built with MKL, which its sparse products on the CPU need."""
    return bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
