"""The data of one training step from which an architecture learns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sae.distributed import ALONE, Group
from sae.kernels.codes import Codes


@dataclass(frozen=True)
class Batch:
    """One step's batch as a rule sees it: everything after the encoder product."""

    pre_BL: Tensor
    target_BD: Tensor
    b_enc_L: Tensor
    W_dec_LD: Tensor
    b_dec_D: Tensor
    variance: float
    n_tokens: int  # in the whole batch, of which this process may have a part
    warm: float = 1.0  # share of the sparsity coefficient that applies at this step
    group: Group = ALONE

    @property
    def per_token(self) -> float:
        """Return what a squared error of 1 on one token adds to the FVU of the batch."""
        return 1.0 / (self.n_tokens * self.variance)

    def decode(self, codes: Codes) -> Tensor:
        """Return Σ value · W_dec[latent] of each token, [B, D]."""
        return self.group.sum_latents(codes.decode(self.W_dec_LD))
