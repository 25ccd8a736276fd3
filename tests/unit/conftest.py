"""Fixtures that unit tests of several packages share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TinySae = Callable[..., Any]


@pytest.fixture(scope="session")
def tiny_sae() -> TinySae:
    """Makes a small random SAE for the embedded model: `tiny_sae(architecture, normalize, layer, seed)`.

    Given `folder`, it is written there as an artefact.  The threshold lets a fair share of latents fire.
    """
    import torch

    from sae.autoencoder.artefact import Autoencoder
    from sae.lm.model_info import find_model

    def make(
        architecture: str = "batch_topk", normalize: str = "none", layer: int = 2, seed: int = 0,
        folder: Path | None = None, n_latents: int = 48, k: int = 12, kind: str = "hook_resid_post",
    ) -> Autoencoder:
        info = find_model("demo")
        generator = torch.Generator().manual_seed(seed)
        W_dec_LD = torch.randn(n_latents, info.d_model, generator=generator)
        W_dec_LD /= W_dec_LD.norm(dim=1, keepdim=True)
        tensors = {
            "W_enc": W_dec_LD + 0.02 * torch.randn(n_latents, info.d_model, generator=generator),
            "b_enc": 0.1 * torch.randn(n_latents, generator=generator), "W_dec": W_dec_LD,
            "b_dec": 0.1 * torch.randn(info.d_model, generator=generator)}
        if architecture == "batch_topk":
            tensors["threshold"] = torch.tensor([0.3])
        name = f"{layer}-tiny-{architecture.replace('_', '')}-{seed}"
        sae = Autoencoder(tensors, {
            "schema_version": 1, "id": f"demo/{name}", "model": {"name": "demo", "id": "demo"},
            "site": {"layer": layer, "hook": f"blocks.{layer}.{kind}"}, "architecture": architecture,
            "n_latents": n_latents, "d_model": info.d_model, "k": k, "normalize": normalize,
            "weight_processing": "raw", "bos": {"prepended": True, "trained_on": True}, "context_length": 128,
            "threshold": {"trained": 0.3, "calibrated": 0.3} if architecture == "batch_topk" else None,
            "metrics": {}, "training": {}, "run": "none", "created": 0.0, "saescope_version": "0"})
        if folder is not None:
            sae.save(folder)
        return sae

    return make
