"""Exact top-k over ranks that hold different tokens, different latents, or both.

An entry outside a rank's own strongest `n_keep` cannot be among the global ones, so only the rank's own top entries
are candidates.  The cut is found by counting bit patterns (positive floats order as their bits do).  Two histograms,
summed over the ranks, give the value of the n_keep-th largest entry; nothing is gathered or sorted.  Ties at the cut
go to the lowest (token, latent), as in a single process.

Shapes: B tokens of this replica, L latents of this shard, N candidates, S shards, W ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.device import on_gpu
from sae.kernels.select import batch_topk, row_topk
from sae.kernels.threshold import kth_of_rows

if TYPE_CHECKING:
    from sae.distributed import Group

_HALF = 1 << 16


def global_batch_topk(pre_BL: Tensor, n_keep: int, group: Group) -> Codes:
    """Return this rank's part of the `n_keep` largest positive entries of the batch of all replicas and shards."""
    codes = batch_topk(pre_BL, min(n_keep, pre_BL.numel()))
    return codes.where(among_batch_topk(codes, n_keep, group))


def global_row_topk(pre_BL: Tensor, k: int, group: Group) -> Codes:
    """Return this rank's part of the k largest positive entries of every token, over the latents of all shards."""
    codes = row_topk(pre_BL, min(k, pre_BL.shape[1]))
    return codes.where(among_row_topk(codes, k, k, group)) if group.shards > 1 else codes


def among_batch_topk(codes: Codes, n_keep: int, group: Group) -> Tensor:
    """Return which pairs are among the `n_keep` strongest of all ranks, [N].  Values must be positive."""
    if group.world == 1 and on_gpu(codes.value_N):
        from sae.kernels.triton_select import strongest

        return strongest(codes, n_keep)
    bits_N = codes.value_N.view(torch.int32)
    high_N = bits_N >> 16
    count = group.sum_all(torch.bincount(high_N, minlength=_HALF // 2))
    if int(count.sum()) <= n_keep:
        return torch.ones_like(bits_N, dtype=torch.bool)
    high, n_above = _bin_of(count, n_keep)
    count = group.sum_all(torch.bincount(bits_N[high_N == high] & (_HALF - 1), minlength=_HALF))
    low, n_between = _bin_of(count, n_keep - n_above)
    cut, budget = high << 16 | low, n_keep - n_above - n_between  # how many ties at the cut are kept
    above_N, tied_N = bits_N > cut, bits_N == cut
    if int(count[low]) == budget:
        return above_N | tied_N
    # The number of ties before this rank's on each of its tokens, in the order (token, latent).
    ties_RSB = torch.stack(list(group.gather(_per_token(tied_N, codes)))).reshape(group.replicas, group.shards, -1)
    ties_T = ties_RSB.transpose(1, 2).reshape(-1)
    before_RBS = (ties_T.cumsum(0) - ties_T).reshape(group.replicas, -1, group.shards)
    return above_N | (tied_N & (_tie_number(tied_N, before_RBS[group.replica, :, group.shard], codes) < budget))


def among_row_topk(codes: Codes, k: int, at_most: int, group: Group) -> Tensor:
    """Return which pairs are among the k strongest of their token on all shards, [N].

    No token may have more than `at_most` pairs on one shard.  Values must be positive.
    """
    if group.world == 1 and on_gpu(codes.value_N):
        from sae.kernels.triton_select import strongest_of_rows

        return strongest_of_rows(codes, k)
    own_BK = torch.zeros(codes.n_tokens, at_most, device=codes.value_N.device)
    column_N = torch.arange(len(codes.token_N), device=own_BK.device) - codes.offset_B[codes.token_N]
    own_BK[codes.token_N, column_N] = codes.value_N
    all_BSK = torch.stack(list(group.gather_shards(own_BK)), dim=1)
    cut_B = all_BSK.flatten(1).topk(k, dim=1).values[:, -1]
    ties_BS = (all_BSK == cut_B[:, None, None]).sum(dim=2)
    budget_B = k - (all_BSK > cut_B[:, None, None]).sum(dim=(1, 2))
    cut_N = cut_B[codes.token_N]
    tied_N = codes.value_N == cut_N
    number_N = _tie_number(tied_N, ties_BS[:, : group.shard].sum(dim=1), codes)
    return (codes.value_N > cut_N) | (tied_N & (number_N < budget_B[codes.token_N]))


def row_cut(z_BM: Tensor, k: int, group: Group) -> Tensor:
    """Return the k-th largest entry of every token over all shards, [B, 1].

    Entries must not be negative.  The width M may differ between shards.
    """
    if group.shards == 1:
        return kth_of_rows(z_BM, k)
    own_BK = z_BM.new_zeros(len(z_BM), k)
    if z_BM.shape[1]:
        values_BK = z_BM.topk(min(k, z_BM.shape[1]), dim=1, sorted=False).values
        own_BK[:, : values_BK.shape[1]] = values_BK
    all_BK = torch.cat(list(group.gather_shards(own_BK)), dim=1)
    return kth_of_rows(all_BK, k)


def _bin_of(count: Tensor, n: int) -> tuple[int, int]:
    """Return the bin that contains the n-th largest entry, and the number of entries in the bins above it."""
    from_top = count.flip(0).cumsum(0)
    index = int(torch.searchsorted(from_top, n))
    return len(count) - 1 - index, int(from_top[index] - count[len(count) - 1 - index])


def _per_token(flag_N: Tensor, codes: Codes) -> Tensor:
    return torch.bincount(codes.token_N[flag_N], minlength=codes.n_tokens)


def _tie_number(tied_N: Tensor, before_B: Tensor, codes: Codes) -> Tensor:
    """Number each tie among all ties: `before_B` ties come before its token's, then those before it on the token."""
    ties_B = _per_token(tied_N, codes)
    running_N = tied_N.cumsum(0) - 1
    return running_N - (ties_B.cumsum(0) - ties_B)[codes.token_N] + before_B[codes.token_N]
