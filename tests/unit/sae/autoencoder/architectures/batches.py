"""Random batches from which architectures learn, and rules made ready for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.autoencoder.architectures import make
from sae.autoencoder.architectures.base import Sparsity
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.kernels.codes import Codes
from sae.specs.registry import TrainSpec

B, L, D = 9, 8, 5


def batch_of(seed: int, warm: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    W_dec_LD = torch.nn.functional.normalize(random(L, D), dim=1)
    return Batch(random(B, L), random(B, D), 0.3 * random(L), W_dec_LD, random(D), variance=2.5, n_tokens=B, warm=warm)


def rule_for(architecture: str, input_scale: float = 1.0, **settings: Any) -> Sparsity:
    rule = make(architecture, settings.get("k", 3))
    spec = TrainSpec(**{"architecture": architecture, "n_latents": L, "k": 3, **settings})
    rule.setup(spec, DataStatistics(torch.zeros(D), 2.5, input_scale), torch.device("cpu"))
    return rule


def fvu(codes_BL: Tensor, batch: Batch, W_dec_LD: Tensor, b_dec_D: Tensor) -> Tensor:
    """Return the FVU of dense codes, as defined."""
    return (batch.target_BD - codes_BL @ W_dec_LD - b_dec_D).square().sum() / (B * batch.variance)


def dense(codes: Codes) -> Tensor:
    out_BL = torch.zeros(codes.n_tokens, codes.n_latents)
    out_BL[codes.token_N, codes.latent_N] = codes.value_N
    return out_BL
