"""Pairs whose pre-activation exceeds a bound, found without a float32 product of all pairs.

A processor that multiplies bfloat16 in hardware does it in half the time of float32 or less.  So all pairs are
screened in bfloat16, with a bound that is lowered by more than the rounding error.  The few pairs above it are
computed in float32.  No pair is missed: with u = 2⁻⁸, the unit roundoff of bfloat16, and the products summed in
float32,

    |ŷ·ŵ − y·w| ≤ (2u + u²) Σ|y_i w_i| + rounding of the sums ≤ (2u + u² + D·2⁻²³) ‖y‖‖w‖

and the result is rounded once more, by at most u times itself.

Shapes: B tokens, L latents, D width, C columns including the bias's, N pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.encoder import columns, with_bias, with_ones
from sae.kernels.select import entries_above
from sae.kernels.threshold import above

_U = 2.0**-8
_LEAST = 64  # tokens from which the screen pays
_FAR = 2.0  # times the median norm: a longer token would lower the bound for all
_MOST = 1 / 32  # of all pairs: if more pass the screen, the float32 product is as fast


class Screen:
    """An encoder, W [L, D] and b [L], prepared for screening."""

    def __init__(self, W_LD: Tensor, b_L: Tensor) -> None:
        self.W_LD, self.b_L = W_LD, b_L
        L, D = W_LD.shape
        self._W_LC = with_bias(W_LD, b_L, W_LD.new_zeros((L, columns(D)), dtype=torch.bfloat16))
        self._per_norm_L = W_LD.norm(dim=1) * (2 * _U + _U**2 + D * 2.0**-23) * 1.001
        self._always_L = b_L.abs() * 2.0**-15  # its two columns hold the bias to 2⁻¹⁶ of itself

    def above(self, y_BD: Tensor, bound: Tensor) -> Codes | None:
        """Return the pairs with y · W + b above the bound, with that value in float32.

        `bound` is one number, or one per latent [L].  Returns None if screening does not pay: for few tokens, or many
        pairs.
        """
        if len(y_BD) < _LEAST:
            return None
        norm_B = y_BD.norm(dim=1)
        far_B = norm_B > _FAR * norm_B.median()
        if not bool(far_B.any()):
            return self._above(y_BD, bound, norm_B.max())
        near = (~far_B).nonzero().squeeze(1)
        codes = self._above(y_BD[near], bound, norm_B[near].max())
        far = far_B.nonzero().squeeze(1)
        exact = entries_above(torch.addmm(self.b_L, y_BD[far], self.W_LD.T), bound)
        return None if codes is None else _merge_rows(codes, near, exact, far)

    def _above(self, y_BD: Tensor, bound: Tensor, norm: Tensor) -> Codes | None:
        B, D = y_BD.shape
        y_BC = with_ones(y_BD, y_BD.new_zeros((B, columns(D)), dtype=torch.bfloat16))
        low_L = bound - self._per_norm_L * norm - self._always_L
        flat_N, _ = above(y_BC @ self._W_LC.T, low_L - low_L.abs() * (2 * _U))
        if len(flat_N) > _MOST * B * len(low_L):
            return None
        codes = Codes.from_flat(flat_N, torch.zeros(len(flat_N)), B, len(low_L))
        codes.value_N = codes.sampled_product(y_BD, self.W_LD) + self.b_L[codes.latent_N]
        return codes.where(codes.value_N > (bound if bound.ndim == 0 else bound[codes.latent_N]))


def _merge_rows(some: Codes, rows: Tensor, others: Codes, other_rows: Tensor) -> Codes:
    """Merge the codes of some rows of a batch with the codes of its other rows."""
    token_N = torch.cat([rows[some.token_N], other_rows[others.token_N]])
    order_N = torch.argsort(token_N, stable=True)
    return Codes(token_N[order_N], torch.cat([some.latent_N, others.latent_N])[order_N],
                 torch.cat([some.value_N, others.value_N])[order_N], len(rows) + len(other_rows), some.n_latents)
