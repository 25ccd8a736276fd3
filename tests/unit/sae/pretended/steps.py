"""Training steps on a pretended device, for several tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.distributed import ALONE, Group
from sae.specs.registry import TrainSpec
from sae.training.trainer import SAETrainer

B, L, D, K = 8, 16, 6, 3
RULES: dict[str, dict[str, Any]] = {
    "batch_topk": {}, "topk": {}, "matryoshka": {"prefixes": "1/4,1/2,1"}, "relu": {}, "gated": {}, "jumprelu": {},
    "jumprelu, linear": {"l0_penalty": "linear"}, "batch_topk, multi": {"multi_topk": True},
    "topk, multi": {"multi_topk": True}}


def trainer_of(rule: str, device: str, n_latents: int = L, width: int = D, group: Group = ALONE,
               **changes: Any) -> SAETrainer:
    spec = TrainSpec(**{
        "architecture": rule.partition(",")[0], "n_latents": n_latents, "k": K, "k_aux": 4, "tokens": 1000,
        "batch_tokens": 16, "dead_after_tokens": B, "clip_norm": 0.5, **RULES[rule], **changes})
    start = DataStatistics(torch.linspace(-1, 1, width), variance=2.5, input_scale=1.2)
    trainer = SAETrainer(spec, start, torch.device(device), torch.float32, group)
    if group.shard == 0:
        trainer.b_enc_L.data[:2] = -9.0  # these are dead as soon as they can be
    return trainer


def batches(n: int, width: int = D, tokens: int = B) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)  # no gradient of it is a rounding error, which Adam makes a step
    return [1.5 * torch.randn(tokens, width, generator=generator) for _ in range(n)]


def trained(rule: str, device: str, steps: int, **changes: Any) -> SAETrainer:
    trainer = trainer_of(rule, device, **changes)
    for y_BD in batches(steps):
        trainer.step(y_BD.to(device), 0.01)
    return trainer
