"""Exact top-k over ranks that hold different tokens, different latents, or both.

What a rank drops from its own strongest `n_keep` entries can be nowhere among the global ones, so
only those are candidates.  The cut is found by counting their bit patterns (positive floats order
as their bits do): two histograms, summed over the ranks, name the value of the n_keep-th largest
entry; nothing is gathered or sorted.  Ties at the cut go to the lowest (token, latent), as in a
single process.

Shapes: B tokens of this replica, L latents of this shard, N candidates, S shards, W ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.select import batch_topk, row_topk

if TYPE_CHECKING:
    from sae.distributed import Group

_HALF = 1 << 16


def global_batch_topk(pre_BL: Tensor, n_keep: int, group: Group) -> Codes:
    """This rank's part of the `n_keep` largest positive entries of the batch of all replicas and shards."""
    B, L = pre_BL.shape
    codes = batch_topk(pre_BL, min(n_keep, B * L))
    bits_N = codes.value_N.view(torch.int32)
    high_N = bits_N >> 16
    count = group.sum_all(torch.bincount(high_N, minlength=_HALF // 2))
    if int(count.sum()) <= n_keep:
        return codes
    high, n_above = _bin_of(count, n_keep)
    count = group.sum_all(torch.bincount(bits_N[high_N == high] & (_HALF - 1), minlength=_HALF))
    low, n_between = _bin_of(count, n_keep - n_above)
    cut, budget = high << 16 | low, n_keep - n_above - n_between  # how many of those at the cut stay
    tied_N = bits_N == cut
    if int(count[low]) == budget:
        return _kept(codes, (bits_N > cut) | tied_N)
    # How many ties come before this rank's on each of its tokens, in the order (token, latent).
    ties_B = _per_token(tied_N, codes)
    ties_RBS = torch.stack(list(group.gather(ties_B))).reshape(group.replicas, group.shards, B).permute(0, 2, 1)
    before_RBS = (ties_RBS.reshape(-1).cumsum(0) - ties_RBS.reshape(-1)).reshape(ties_RBS.shape)
    before_B = before_RBS[group.replica, :, group.shard]
    return _kept(codes, (bits_N > cut) | (tied_N & (_place(tied_N, before_B, codes) < budget)))


def global_row_topk(pre_BL: Tensor, k: int, group: Group) -> Codes:
    """This rank's part of the k largest positive entries of every token, over the latents of all shards."""
    B, L = pre_BL.shape
    codes = row_topk(pre_BL, min(k, L))
    if group.shards == 1:
        return codes
    place_N = torch.arange(len(codes.token_N), device=pre_BL.device) - codes.offset_B[codes.token_N]
    own_BK = torch.zeros(B, k, device=pre_BL.device)
    own_BK[codes.token_N, place_N] = codes.value_N
    first = group.replica * group.shards  # only the shards of this replica hold the same tokens
    all_BSK = torch.stack(list(group.gather(own_BK))[first : first + group.shards], dim=1)
    cut_B = all_BSK.flatten(1).topk(k, dim=1).values[:, -1]
    ties_BS = (all_BSK == cut_B[:, None, None]).sum(dim=2)
    before_B = ties_BS[:, : group.shard].sum(dim=1)
    budget_B = k - (all_BSK > cut_B[:, None, None]).sum(dim=(1, 2))
    tied_N = codes.value_N == cut_B[codes.token_N]
    stays_N = _place(tied_N, before_B, codes) < budget_B[codes.token_N]
    return _kept(codes, (codes.value_N > cut_B[codes.token_N]) | (tied_N & stays_N))


def _bin_of(count: Tensor, n: int) -> tuple[int, int]:
    """The bin that holds the n-th largest, and how many lie in the bins above it."""
    from_top = count.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, n))
    return len(count) - 1 - place, int(from_top[place] - count[len(count) - 1 - place])


def _per_token(flag_N: Tensor, codes: Codes) -> Tensor:
    return torch.bincount(codes.token_N[flag_N], minlength=codes.n_tokens)


def _place(tied_N: Tensor, before_B: Tensor, codes: Codes) -> Tensor:
    """Each tie's number among all of them: those before this token's, then those before it on the token."""
    ties_B = _per_token(tied_N, codes)
    running_N = tied_N.cumsum(0) - tied_N.long()
    return running_N - (ties_B.cumsum(0) - ties_B)[codes.token_N] + before_B[codes.token_N]


def _kept(codes: Codes, keep_N: Tensor) -> Codes:
    return Codes(codes.token_N[keep_N], codes.latent_N[keep_N], codes.value_N[keep_N],
                 codes.n_tokens, codes.n_latents)
