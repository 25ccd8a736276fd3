"""A Matryoshka SAE cut to a prefix of its dictionary (Bussmann et al. 2025): still an SAE, only coarser."""

from __future__ import annotations

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError


def truncate(sae: Autoencoder, n_latents: int) -> Autoencoder:
    """The SAE of the first `n_latents` latents, with the same θ; a copy.

    What was measured of the whole is not said of the part: its config has no metrics, and no calibration of θ.
    Raises UserError (field `n_latents`) for a size that it does not have, (field `sae`) where the
    latents are not nested, so that a prefix is nothing but a damaged SAE.
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
