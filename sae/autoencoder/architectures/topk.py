"""TopK (Gao et al. 2024, section 2.3): the k largest latents of every token.

Multi-TopK (section 5.3.1) adds an eighth of the loss at 4k to the loss at k.  The k are among the 4k, so both are one
nested reconstruction.  k alone decides which latents count as active.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.autoencoder.architectures.base import Learned, Sparsity, learned_from
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.losses import nested_reconstruction_loss
from sae.distributed.select import among_row_topk
from sae.kernels.codes import Codes
from sae.kernels.select import row_topk
from sae.specs.registry import TrainSpec

MULTI = 4  # Multi-TopK decodes from k and from MULTI·k latents
WEIGHTS = (1.0, 1 / 8)  # the weights of the two losses


class TopK(Sparsity):
    """The rule `f = TopK_k(ReLU(pre))`, in training and at inference."""

    multi = False

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        self.multi = spec.multi_topk

    def select_training(self, pre_BL: Tensor) -> Codes:
        return self.group.row_topk(pre_BL, self.k)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return row_topk(pre_BL, self.k)

    def threshold_for(self, codes: Codes | None = None) -> Tensor:
        """Return the k-th largest pre-activation of each token; 0 if fewer are positive."""
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
    """Learn from the MULTI·k codes, of which `among_k_N` marks the k strongest (Multi-TopK)."""
    learned = learned_from(codes, nested_reconstruction_loss(codes, (~among_k_N).long(), WEIGHTS, batch, error_level=0))
    learned.codes = codes.kept(among_k_N)
    return learned
