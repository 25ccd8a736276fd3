"""Activations made of known features, and SAEs trained on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.specs.registry import TrainSpec
from sae.training.loop import StoredActivations, Trained, artefact, train

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {}, "batch_topk": {}, "multi_topk": {"architecture": "topk", "multi_topk": True},
    "matryoshka": {"prefixes": "1/4, 1/2, 1"}, "jumprelu": {}, "gated": {"l1_coefficient": 0.2},
    "relu": {"l1_coefficient": 0.05}}


def mixtures(n_tokens: int, n_features: int, width: int, seed: int = 0, active: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return activations that are sparse sums of unit features, and the features [G, D]."""
    generator = torch.Generator().manual_seed(seed)
    features_GD = torch.randn(n_features, width, generator=generator)
    features_GD /= features_GD.norm(dim=1, keepdim=True)
    strength_NG = 1 + torch.rand(n_tokens, n_features, generator=generator)
    strength_NG *= torch.rand(n_tokens, n_features, generator=generator) < active
    return 4 * strength_NG @ features_GD + 0.5, features_GD


def trained_on(x_ND: Tensor, architecture: str, **changes: Any) -> tuple[Trained, TrainSpec]:
    """Return a small SAE trained with an architecture, given by its name in `ARCHITECTURES`."""
    values = {"architecture": architecture, "n_latents": 64, "k": 2, "tokens": 256 * 350, "batch_tokens": 256,
              "lr": 5e-3, "k_aux": 16, "dead_after_tokens": 256 * 40, "normalize": "none",
              **ARCHITECTURES[architecture], **changes}
    spec = TrainSpec(**values)
    return train(spec, StoredActivations(x_ND, spec.batch_tokens, spec.seed), torch.device("cpu")), spec


def artefact_of(trained: Trained, spec: TrainSpec) -> Autoencoder:
    """Return the artefact that a run would save, as far as the weights go."""
    d_model = len(trained.trainer.b_dec_D)
    return artefact(trained, {
        "schema_version": 1, "id": "toy/sae", "architecture": spec.architecture, "n_latents": spec.n_latents,
        "d_model": d_model, "k": spec.k if trained.trainer.sparsity.has_k else None, "normalize": spec.normalize,
        "weight_processing": "raw", "site": {"layer": 1, "hook": "blocks.1.hook_resid_post"}, "threshold": None,
        "bos": {"prepended": True, "trained_on": True}, "context_length": 16, "metrics": {}, "training": {}})
