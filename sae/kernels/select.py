"""Which latents stay active: exact top-k over a batch, top-k per token, and a threshold.

Shapes: B tokens, L latents, N selected pairs.  Pre-activations may be bfloat16 or float32;
values come back in float32.  Only positive pre-activations are ever selected (ReLU first).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.kernels.codes import Codes

_GROUP = 16


def batch_topk(pre_BL: Tensor, n_keep: int) -> Codes:
    """The `n_keep` largest positive entries of the whole batch (BatchTopK, section 3 of the paper).

    Exact, without sorting the batch: the n_keep-th largest of the maxima of disjoint groups is a
    lower bound of the n_keep-th largest entry, and hardly more than n_keep entries reach it.
    Ties at the cut go to the lowest (token, latent).
    """
    flat = pre_BL.reshape(-1)
    candidates = (flat >= _lower_bound(pre_BL, n_keep)).nonzero().squeeze(1)  # ascending
    values = flat[candidates].float()
    if len(values) > n_keep:
        cut = values.topk(n_keep, sorted=True).values[-1]
        above = values > cut
        ties = (values == cut).nonzero().squeeze(1)[: n_keep - int(above.sum())]
        above[ties] = True
        candidates, values = candidates[above], values[above]
    return Codes.from_flat(candidates, values, *pre_BL.shape)


def row_topk(pre_BL: Tensor, k: int) -> Codes:
    """The k largest positive entries of every row (TopK)."""
    values_BK, latents_BK = pre_BL.topk(k, dim=1, sorted=False)
    tokens_BK = torch.arange(len(pre_BL), device=pre_BL.device)[:, None].expand_as(latents_BK)
    keep = values_BK > 0
    return Codes(tokens_BK[keep], latents_BK[keep], values_BK[keep].float(), *pre_BL.shape)


def above_threshold(pre_BL: Tensor, threshold: Tensor | float) -> Codes:
    """Every entry above `threshold` (strictly) and above 0: JumpReLU with one θ, or one a latent."""
    flat = ((pre_BL > threshold) & (pre_BL > 0)).reshape(-1).nonzero().squeeze(1)
    return Codes.from_flat(flat, pre_BL.reshape(-1)[flat].float(), *pre_BL.shape)


def _lower_bound(pre_BL: Tensor, n_keep: int) -> Tensor:
    """A positive value that the `n_keep` largest entries reach, as far as they are positive."""
    B, L = pre_BL.shape
    smallest = torch.finfo(pre_BL.dtype).tiny
    if L % _GROUP or n_keep >= B * (L // _GROUP):
        return torch.full((), smallest, device=pre_BL.device, dtype=pre_BL.dtype)
    # A group is strided over latents, so that the maximum runs over whole vectors.
    maxima = pre_BL.reshape(B, _GROUP, L // _GROUP).amax(dim=1).reshape(-1)
    return maxima.topk(n_keep, sorted=False).values.amin().clamp(min=smallest)
