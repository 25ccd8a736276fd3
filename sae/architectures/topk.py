"""TopK (Gao et al. 2024, section 2.3): the k largest latents of every token."""

from __future__ import annotations

from torch import Tensor

from sae.architectures.base import Sparsity
from sae.kernels.codes import Codes
from sae.kernels.select import row_topk


class TopK(Sparsity):
    """`f = TopK_k(ReLU(pre))`, the same while training and at inference."""

    def select_training(self, pre_BL: Tensor) -> Codes:
        return row_topk(pre_BL, self.k)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return row_topk(pre_BL, self.k)
