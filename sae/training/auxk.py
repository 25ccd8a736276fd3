"""AuxK (Gao et al. 2024, section 2.4): dead latents learn to explain the remaining error.

    e     = t − ŷ, detached                 ẑ = TopK_{k_aux}(ReLU(pre of dead latents))
    AuxK  = Σ‖e − ẑ·W_dec‖² / Σ‖e − ē‖²    no bias; the gradient reaches the encoder

It uses dense products over the dead latents, in the dtype of the other large products.

Shapes: B tokens, D width, M dead latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.distributed import ALONE, Group
from sae.distributed.select import row_cut
from sae.kernels.threshold import zero_below_, zero_where_zero_


@dataclass
class AuxK:
    """The loss, and its gradients for the rows of the dead latents."""

    loss: Tensor
    grad_W_dec_MD: Tensor
    grad_W_enc_MD: Tensor
    grad_pre_M: Tensor  # summed over tokens: the gradient of b_enc


def auxk(
    pre_BM: Tensor, input_BD: Tensor, error_BD: Tensor, W_dec_MD: Tensor, k_aux: int, n_dead: int, group: Group = ALONE,
) -> AuxK | None:
    """Return AuxK of this process's M dead latents, of `n_dead` on all shards.

    The loss is the part of this process's tokens.  Returns None if there is no error to explain or no latent is dead;
    on a GPU, where the host would have to wait for the first, the loss and its gradients are 0 then.
    """
    mean_D = group.sum_tokens(error_BD.sum(dim=0)) / group.tokens(len(error_BD))
    spread = group.sum_tokens((error_BD - mean_D).square().sum())
    if not n_dead or (spread.device.type == "cpu" and spread == 0):
        return None
    if spread.device.type != "cpu":
        spread = torch.where(spread == 0, torch.inf, spread)
    z_BM = pre_BM.relu()
    if n_dead > k_aux:
        zero_below_(z_BM, row_cut(z_BM, k_aux, group))
    W_dec_MD = W_dec_MD.to(z_BM.dtype)
    rest_BD = error_BD - group.sum_latents((z_BM @ W_dec_MD).float())
    grad_BD = (rest_BD * (-2.0 / spread)).to(z_BM.dtype)
    grad_z_BM = grad_BD @ W_dec_MD.T
    zero_where_zero_(grad_z_BM, z_BM)
    return AuxK(rest_BD.square().sum() / spread, (z_BM.T @ grad_BD).float(),
                (grad_z_BM.T @ input_BD.to(z_BM.dtype)).float(), grad_z_BM.sum(dim=0, dtype=torch.float32))
