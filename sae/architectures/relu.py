"""ReLU (Bricken et al. 2023, "Towards Monosemanticity"): every positive pre-activation, held small by an L1 term."""

from __future__ import annotations

from torch import Tensor

from sae.architectures.base import Sparsity
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold


class ReLU(Sparsity):
    """`f = ReLU(pre)`, the same while training and at inference."""

    has_k = False
    independent = True

    def select_training(self, pre_BL: Tensor) -> Codes:
        return above_threshold(pre_BL, 0.0)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return above_threshold(pre_BL, 0.0)
