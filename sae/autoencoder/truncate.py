"""Truncation of a Matryoshka SAE to a prefix of its dictionary (Bussmann et al. 2025), which is a coarser SAE."""

from __future__ import annotations

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError


def truncate(sae: Autoencoder, n_latents: int) -> Autoencoder:
    """Return a copy of the SAE with its first `n_latents` latents and the same θ.

    Its config has no metrics and no calibration of θ, because those were measured on the whole SAE. Raises UserError:
    field `n_latents` for an impossible size, field `sae` if the latents are not nested, since a prefix would then be
    only a damaged SAE.
    """
    if sae.config["architecture"] != "matryoshka":
        raise UserError(f"sae: only a matryoshka SAE can be truncated, this one is {sae.config['architecture']}", "sae")
    if not 1 <= n_latents <= sae.n_latents:
        raise UserError(f"n_latents: {n_latents} is not between 1 and {sae.n_latents}", "n_latents")
    whole = {"b_dec", "b_in", "W_skip", "threshold"}
    tensors = {name: (t if name in whole else t[:n_latents]).clone() for name, t in sae.tensors().items()}
    config = sae.config | {
        "n_latents": n_latents, "k": min(sae.k, n_latents), "metrics": {},
        "truncated_from": {"id": sae.config.get("id"), "n_latents": sae.n_latents},
        "threshold": {"trained": sae.sparsity.threshold}}
    return Autoencoder(tensors, config)
