"""Matryoshka BatchTopK (Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka SAEs").

Selection is BatchTopK's, over all latents at once.  The loss differs: it requires every prefix w_1 < … < w_G = L of
the dictionary to reconstruct on its own:

    loss = 1/G · Σ_g FVU(first w_g latents)

A trained SAE may be cut at any of its prefixes (`sae.autoencoder.truncate`).
"""

from __future__ import annotations

import torch

from sae.autoencoder.architectures.base import Learned, learned_from
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.batch_topk import BatchTopK
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.losses import nested_reconstruction_loss
from sae.specs.registry import TrainSpec, prefix_sizes


class Matryoshka(BatchTopK):
    """BatchTopK over a dictionary whose prefixes are dictionaries, too."""

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        self.bounds_G = torch.tensor(prefix_sizes(spec.prefixes, spec.n_latents), device=device)

    def learn(self, batch: Batch) -> Learned:
        codes = self.select_training(batch.pre_BL)
        level_N = torch.bucketize(codes.latent_N + self.group.shard * codes.n_latents, self.bounds_G, right=True)
        weights = (1 / len(self.bounds_G),) * len(self.bounds_G)
        return learned_from(codes, nested_reconstruction_loss(codes, level_N, weights, batch))
