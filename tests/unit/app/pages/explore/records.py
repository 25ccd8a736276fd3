"""SAEs and records of latents made by hand, for tests of what pages make of them."""

from __future__ import annotations

from typing import Any

from app.db.tables import Sae
from sae.store.records import Latent, LatentRow
from tests.unit.app.conftest import sae_config


def sae(name: str = "one", *, build: str | None = "index-1", created: float = 1.0, **config: Any) -> Sae:
    values: dict[str, Any] = dict(sae_config(f"demo/{name}", **config))
    return Sae(
        id=f"demo/{name}", model="demo", name=name, architecture=values["architecture"], k=values["k"],
        n_latents=values["n_latents"], layer=2, hook=values["site"]["hook"], config=values, current_build=build,
        created=created)


def row(latent: int = 1, **changes: Any) -> LatentRow:
    return LatentRow(**{
        "latent": latent, "n_tokens": 20, "density": 0.01, "max_act": 4.0, "mean_act": 1.0, "logit_kurtosis": 3.0,
        "logit_skew": 0.1, "mean_l0": 12.0, "flags": (), "logit_pos": [5], **changes})


def latent(**changes: Any) -> Latent:
    return Latent(**{
        "latent": 1, "n_tokens": 20, "n_contexts": 5, "density": 0.01, "max_act": 4.0, "mean_act": 1.0,
        "std_act": 0.5, "hist": None, "mean_position": 9.0, "flags": (), "top_tokens": [], "next_tokens": [],
        "logit_pos": [], "logit_neg": [], "logit_hist": None, "logit_std": 0.3, "logit_skew": 0.1,
        "logit_kurtosis": 3.0, "neighbours": [], "encoder_norm": 1.0, "encoder_decoder_cos": 0.5, "mean_l0": 12.0,
        **changes})
