"""TopK (Gao et al. 2024, section 2.3): the k largest latents of every token.

Multi-TopK (section 5.3.1) adds an eighth of the loss at 4k to the loss at k.  The k are among the
4k, so both are one nested reconstruction.  Which latents count as active is decided by k alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.autoencoder.architectures.base import Learned, Sparsity, of_fit
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.losses import nested_reconstruction_loss
from sae.distributed.select import among_row_topk
from sae.kernels.codes import Codes
from sae.kernels.select import row_topk
from sae.specs.registry import TrainSpec

MULTI = 4  # Multi-TopK reads k and MULTI·k latents …
WEIGHTS = (1.0, 1 / 8)  # … with these weights


class TopK(Sparsity):
    """`f = TopK_k(ReLU(pre))`, the same while training and at inference."""

    multi = False

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        self.multi = spec.multi_topk

    def select_training(self, pre_BL: Tensor) -> Codes:
        return self.group.row_topk(pre_BL, self.k)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return row_topk(pre_BL, self.k)

    def threshold_for(self, codes: Codes | None = None) -> Tensor:
        """The k-th largest of each token; 0 where fewer are positive."""
        assert codes is not None
        least_B = torch.full((codes.n_tokens,), torch.inf, device=codes.value_N.device)
        least_B.scatter_reduce_(0, codes.token_N, codes.value_N, "amin")
        return torch.where(codes.l0_B() < self.k, 0.0, least_B)[:, None]

    def learn(self, batch: Batch) -> Learned:
        if not self.multi:
            return super().learn(batch)
        codes = self.group.row_topk(batch.pre_BL, MULTI * self.k)
        return learn_nested(codes, among_row_topk(codes, self.k, MULTI * self.k, self.group), batch)


def learn_nested(codes: Codes, among_k_N: Tensor, batch: Batch) -> Learned:
    """Multi-TopK from the MULTI·k codes, of which `among_k_N` are the k strongest."""
    learned = of_fit(codes, nested_reconstruction_loss(codes, (~among_k_N).long(), WEIGHTS, batch, error_level=0))
    learned.codes = codes.where(among_k_N)
    return learned
