"""ReLU (Bricken et al. 2023, "Towards Monosemanticity"): every positive pre-activation, kept small by an L1 term.

    loss = FVU + λ · mean_B Σ f / √var        decoder rows of unit norm

The penalty also reduces latents that should be active, so activations come out too small (shrinkage).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae.autoencoder.architectures.base import Learned, Sparsity, learned_from
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.losses import reconstruction_loss
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold
from sae.specs.registry import TrainSpec


class ReLU(Sparsity):
    """The rule `f = ReLU(pre)`, in training and at inference."""

    has_k = False
    independent = True
    has_auxk = False
    coefficient: float
    start_bias = -1.5  # a random latent is then active on a fifteenth of the tokens, not on half of them

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        self.coefficient = spec.l1_coefficient

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return above_threshold(pre_BL, 0.0)

    def learn(self, batch: Batch) -> Learned:
        codes = self.select_training(batch.pre_BL)
        learned = learned_from(codes, reconstruction_loss(codes, batch))
        weight = l1_weight(self.coefficient, batch)
        learned.sparsity_loss = weight * self.group.sum_latents(codes.value_N.sum())
        learned.loss = learned.loss + learned.sparsity_loss
        learned.grad_pre.value_N += weight
        return learned


def l1_weight(coefficient: float, batch: Batch) -> float:
    """Return what an activation of 1 on one token adds to the loss."""
    return coefficient * batch.warm / (batch.n_tokens * math.sqrt(batch.variance))
