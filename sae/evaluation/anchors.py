"""A random dictionary of an SAE's shape: the number that a measure gives where nothing was learned.

Shapes: N tokens, W width of the SAE's sites, L latents, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.metrics import calibrate_threshold, read_and_target
from sae.kernels.unit_rows import normalize_

_SEED = 0x5AE00000  # far from the seeds with which SAEs start, which draw their directions in the same way
RANDOM = "random dictionary"
RANDOM_NOTE = ("as many random directions, each its own encoder row; the bias is the mean activation, one threshold "
               "gives the SAE's L0, and one factor makes the error smallest")


def random_dictionary(sae: Autoencoder, rows_NW: Tensor, seed: int = 0) -> Autoencoder:
    """Return a dictionary of random unit directions with the SAE's width, number of latents and L0.

    The encoder row of a latent is its decoder row; a transcoder's two sides are drawn separately, because they are
    different spaces.  `rows_NW` are activations at the SAE's sites, which give the biases, θ and one factor of all
    activations.
    """
    x_ND, target_ND = read_and_target(sae, rows_NW)
    generator = torch.Generator().manual_seed(_SEED + seed)
    W_dec_LD = _directions(sae.n_latents, target_ND.shape[1], generator).to(sae.device)
    tensors = {"W_dec": W_dec_LD, "b_dec": target_ND.mean(dim=0), "W_enc": W_dec_LD,
               "b_enc": torch.zeros(sae.n_latents, device=sae.device), "threshold": torch.zeros(1)}
    if sae.is_transcoder:
        tensors |= {"W_enc": _directions(sae.n_latents, x_ND.shape[1], generator).to(sae.device),
                    "b_in": x_ND.mean(dim=0)}
    active = sum(len(sae.codes(part_BD).latent_N) for part_BD in sae.pieces(x_ND))
    k = min(sae.n_latents, max(1, round(active / len(x_ND))))
    config: dict[str, Any] = {
        **sae.config, "id": f"{sae.config['id']}~random", "architecture": "batch_topk", "k": k, "normalize": "none",
        "threshold": None, "metrics": {}}
    dictionary = Autoencoder(tensors, config)
    dictionary.sparsity.threshold = calibrate_threshold(dictionary, [x_ND], k)
    dictionary.activation_scale_L = _best_factor(dictionary, x_ND, target_ND).expand(sae.n_latents)
    return dictionary


def _best_factor(dictionary: Autoencoder, x_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Return the least-squares factor of all activations: without it, correlated directions add up to too much."""
    added_ND = dictionary.reconstruct(x_ND) - dictionary.b_dec_D
    wanted_ND = target_ND - dictionary.b_dec_D
    factor: Tensor = (added_ND * wanted_ND).sum() / added_ND.square().sum().clamp(min=1e-12)
    return factor


def _directions(n: int, width: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn(n, width, generator=generator)
    normalize_(rows)
    return rows
