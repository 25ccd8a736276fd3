"""Selection of active latents: exact top-k over a batch, top-k per token, and a threshold.

Each of them first finds, in one pass over the pre-activations, the few entries above a bound
(`sae.kernels.threshold`), and then selects among those.

Shapes: B tokens, L latents, C candidates, N selected pairs.  Pre-activations may be bfloat16 or float32; values come
back in float32.  Only positive pre-activations are ever selected (ReLU first).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.device import on_gpu
from sae.kernels.threshold import above, below_kth_maximum, kth_largest

_SAMPLE = 1 << 16  # entries from which a bound is guessed
_GROUPS = (16, 8, 4, 2)  # sizes of the groups of latents whose maxima give a bound in TopK


def batch_topk(pre_BL: Tensor, n_keep: int, *, padded: bool = False) -> Codes:
    """Return the `n_keep` largest positive entries of the whole batch (BatchTopK, section 3 of the paper).

    Exact: a sample gives a guess of the cut, and a guess that leaves fewer than `n_keep` candidates is discarded. Ties
    at the cut go to the lowest (token, latent).  If `padded`, a GPU may return empty pairs (`Codes.padded`).
    """
    if on_gpu(pre_BL):
        from sae.kernels import triton_select

        return triton_select.batch_topk(pre_BL, n_keep, padded=padded)
    flat = pre_BL.reshape(-1)
    step = max(1, flat.numel() // _SAMPLE) | 1  # odd, so that it samples all latents if L is a power of two
    sample = flat[::step].float()
    expected = n_keep / step
    for rank in (expected + 5 * expected**0.5 + 5, 4 * expected + 50, len(sample)):
        guess = float(kth_largest(sample, int(rank))) if rank < len(sample) else 0.0
        flat_C, value_C = above(pre_BL, max(guess, 0.0))
        if len(flat_C) >= n_keep or guess <= 0:
            break
    if len(value_C) > n_keep:
        cut = kth_largest(value_C, n_keep)
        keep_C = value_C >= cut
        if surplus := int(keep_C.count_nonzero()) - n_keep:
            keep_C[(value_C == cut).nonzero().squeeze(1)[-surplus:]] = False
        kept = keep_C.nonzero().squeeze(1)
        flat_C, value_C = flat_C.index_select(0, kept), value_C.index_select(0, kept)
    return Codes.from_flat(flat_C, value_C, *pre_BL.shape)


def row_topk(pre_BL: Tensor, k: int, *, padded: bool = False) -> Codes:
    """Return the k largest positive entries of every row (TopK).  Ties at the cut go to any latent.

    If `padded`, a GPU may return empty pairs (`Codes.padded`).
    """
    if on_gpu(pre_BL):
        from sae.kernels import triton_select

        return triton_select.row_topk(pre_BL, k, padded=padded)
    bound_B1 = _row_bound(pre_BL, k)
    if bound_B1 is None:
        values_BK, latents_BK = pre_BL.topk(k, dim=1, sorted=False)
        tokens_BK = torch.arange(len(pre_BL), device=pre_BL.device)[:, None].expand_as(latents_BK)
        keep_BK = values_BK > 0
        return Codes(tokens_BK[keep_BK], latents_BK[keep_BK], values_BK[keep_BK].float(), *pre_BL.shape)
    flat_C, value_C = above(pre_BL, bound_B1)
    some = Codes.from_flat(flat_C, value_C, *pre_BL.shape)
    count_B = some.l0_B()
    if not len(flat_C) or int(count_B.max()) <= k:
        return some
    # The candidates of each token in one row; there are hardly more than k.
    column_C = torch.arange(len(flat_C), device=pre_BL.device) - some.offset_B[some.token_N]
    candidate_BW = torch.zeros(len(pre_BL), int(count_B.max()), device=pre_BL.device)
    candidate_BW[some.token_N, column_C] = some.value_N
    kept_BK = candidate_BW.topk(k, dim=1, sorted=False).indices
    keep_BW = torch.zeros_like(candidate_BW, dtype=torch.bool).scatter_(1, kept_BK, True)
    return some.where(keep_BW[some.token_N, column_C])


def above_threshold(pre_BL: Tensor, threshold: Tensor | float) -> Codes:
    """Return every entry above `threshold` (strictly) and above 0: JumpReLU with one θ, or one per latent."""
    if not isinstance(threshold, Tensor):
        return entries_above(pre_BL, max(float(threshold), 0.0))
    return entries_above(pre_BL, threshold.float().clamp(min=0.0))


def entries_above(pre_BL: Tensor, bound: Tensor | float) -> Codes:
    """Return every entry strictly above `bound`, which may be negative.

    `bound` is one number, one per latent [L] or one per token [B, 1].
    """
    if on_gpu(pre_BL):
        from sae.kernels import triton_select

        return triton_select.entries_above(pre_BL, bound)
    return Codes.from_flat(*above(pre_BL, bound), *pre_BL.shape)


def _row_bound(pre_BL: Tensor, k: int) -> Tensor | None:
    """Return a bound just below the k-th largest entry of each row, [B, 1], or None if rows are too short."""
    L = pre_BL.shape[1]
    size = next((size for size in _GROUPS if L % size == 0 and 2 * k <= L // size), None)
    return below_kth_maximum(pre_BL, size, k) if size and pre_BL.device.type == "cpu" else None
