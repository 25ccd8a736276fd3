"""Reconstruction by sparse codes: error, loss, and the loss's gradients on selected pairs.

    ŷ    = f · W_dec + b_dec                    FVU = Σ‖t − ŷ‖² / (B · var)
    nested: levels g = 1 … G, each with the pairs of the level before it and some more,
    loss = Σ_g weight_g · FVU_g

A pair of level j takes part in every level from j on, so its gradient is the sum S_j of theirs. Levels are laid out
one after the other as further tokens.  So all of them together cost one decode, one sampled product and one transposed
product of N pairs.

Shapes: B tokens, L latents, D width, N pairs, G levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae.kernels.codes import Codes
from sae.kernels.device import on_gpu
from sae.kernels.sorting import stable_argsort

if TYPE_CHECKING:
    from sae.autoencoder.architectures.batch import Batch


@dataclass
class ReconstructionLoss:
    """The error of codes on a batch, the loss, and its gradients."""

    error_BD: Tensor
    loss: Tensor
    grad_value_N: Tensor  # in the order of the pairs given
    grad_W_dec_LD: Tensor
    grad_b_dec_D: Tensor


def reconstruction_loss(codes: Codes, batch: Batch) -> ReconstructionLoss:
    """Return FVU and its gradients, with one level."""
    error_BD, loss = _error(batch.decode(codes), batch)
    scale = -2.0 * batch.per_token  # turns the error into the output's gradient; applied to the smaller tensors
    return ReconstructionLoss(error_BD, loss, codes.sampled_product(error_BD, batch.W_dec_LD, scale),
                              _grad_W_dec(codes, error_BD, batch, scale), error_BD.sum(dim=0).mul_(scale))


def _error(decoded_BD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the error of what was decoded, in its memory, and its FVU."""
    if on_gpu(decoded_BD):
        from sae.kernels.triton_rows import residual

        return decoded_BD, residual(decoded_BD, batch.b_dec_D, batch.target_BD, batch.per_token).sum()
    error_BD = decoded_BD.add_(batch.b_dec_D)
    torch.sub(batch.target_BD, error_BD, out=error_BD)
    return error_BD, batch.per_token * torch.linalg.vector_norm(error_BD).square()


def nested_reconstruction_loss(
    codes: Codes, level_N: Tensor, weights: Sequence[float], batch: Batch, error_level: int = -1
) -> ReconstructionLoss:
    """Return the loss and gradients of levels 0 … G−1; a level consists of the pairs with its `level_N` or a lower
    one.

    The returned error belongs to level `error_level`.
    """
    G, (B, D) = len(weights), batch.target_BD.shape
    if codes.padded:  # an empty pair has token B: at the last level it stays empty, and last
        level_N = torch.where(codes.token_N < B, level_N, G - 1)
    order_N = stable_argsort(level_N)
    stacked = Codes((codes.token_N + B * level_N)[order_N], codes.latent_N[order_N], codes.value_N[order_N],
                    G * B, codes.n_latents, codes.padded)
    felt_GBD = batch.decode(stacked).reshape(G, B, D)  # first the part that each level adds, then its error, then S_j
    rest_BD = batch.target_BD - batch.b_dec_D
    loss = torch.zeros((), device=rest_BD.device)
    for level_BD, weight in zip(felt_GBD, weights, strict=True):
        rest_BD = torch.sub(rest_BD, level_BD, out=level_BD)
        loss += weight * batch.per_token * torch.linalg.vector_norm(level_BD).square()
    error_BD = felt_GBD[error_level].clone()
    scale = [-2.0 * weight * batch.per_token for weight in weights]
    felt_GBD[-1] *= scale[-1]
    for level in range(G - 2, -1, -1):
        torch.add(felt_GBD[level + 1], felt_GBD[level], alpha=scale[level], out=felt_GBD[level])
    felt_TD = felt_GBD.reshape(G * B, D)
    grad_value_N = torch.empty_like(codes.value_N)
    grad_value_N[order_N] = stacked.sampled_product(felt_TD, batch.W_dec_LD)
    grad_W_dec_LD = _grad_W_dec(stacked, felt_TD, batch)
    return ReconstructionLoss(error_BD, loss, grad_value_N, grad_W_dec_LD, felt_GBD[0].sum(dim=0))


def _grad_W_dec(codes: Codes, grad_TD: Tensor, batch: Batch, scale: float = 1.0) -> Tensor:
    """Return W_dec's gradient, written into the memory of the last step's gradient, which is no longer needed."""
    return codes.transpose_matmul(grad_TD, batch.W_dec_LD.grad, scale)
