"""Scores of a dictionary against the true features of a synthetic world (SynthSAEBench, Chanin et al. 2026).

    explained variance  1 − E‖x − x̂‖² / E‖x − mean‖²
    MCC                 mean |cosine| of decoder rows and features, matched one to one with the largest sum (Hungarian)
    uniqueness          distinct nearest features / latents; "nearest" by |cosine|, not by the matching
    precision, recall, F1   of each latent as a detector of its nearest feature, then averaged; a dead latent has 0
    shrinkage           mean of ‖x̂‖ / ‖x‖

Shapes: N samples, F features, L latents, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.evaluation.assignment import best_assignment
from sae.evaluation.synthetic.world import World
from sae.kernels.codes import Codes
from sae.kernels.device import wide

DEFINITIONS = {
    "mcc": "Mean |cosine| of decoder rows and true features, matched one to one so that the sum is largest.",
    "f1": "Mean over latents of the F1 of a latent as a detector of its nearest true feature.",
    "precision": "Mean over latents of the share of a latent's firings on which its nearest true feature is present.",
    "recall": "Mean over latents of the share of its nearest true feature's occurrences on which a latent fires.",
    "uniqueness": "Number of distinct nearest true features, divided by the number of latents.",
    "explained_variance": "1 minus the squared error of the reconstruction divided by the variance.",
    "shrinkage": "Mean ratio of the norms of the reconstruction and of the activation.",
    "l0": "Mean number of active latents in a sample.",
    "dead": "Share of latents that fire in no sample."}


class Dictionary(Protocol):
    """Anything that has decoder rows and encodes samples."""

    W_dec_LD: Tensor

    def encode(self, x_ND: Tensor, truth_NF: Tensor) -> tuple[Codes, Tensor]:
        """Return the active latents and the reconstruction.  Only an oracle may read `truth_NF`."""
        ...


class OfSAE:
    """An SAE as a dictionary."""

    def __init__(self, sae: Autoencoder) -> None:
        self.sae, self.W_dec_LD = sae, sae.W_dec_LD

    def encode(self, x_ND: Tensor, truth_NF: Tensor) -> tuple[Codes, Tensor]:
        codes = self.sae.codes(x_ND)
        return codes, self.sae.decode(codes, x_ND)


class Oracle:
    """The perfect dictionary of a size: the most frequent features with their true magnitudes."""

    def __init__(self, world: World, n_latents: int) -> None:
        self.features = world.probability_F.argsort(descending=True, stable=True)[:n_latents].sort().values
        self.W_dec_LD, self.bias_D = world.features_FD[self.features], world.bias_D

    def encode(self, x_ND: Tensor, truth_NF: Tensor) -> tuple[Codes, Tensor]:
        value_NL = truth_NF[:, self.features]
        token, latent = value_NL.nonzero(as_tuple=True)
        return Codes(token, latent, value_NL[token, latent], *value_NL.shape), value_NL @ self.W_dec_LD + self.bias_D


class Chance:
    """A random dictionary whose latents fire at random, each with probability k / L."""

    def __init__(self, world: World, n_latents: int, k: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        rows_LD = torch.randn(n_latents, world.features_FD.shape[1], generator=self.generator)
        self.W_dec_LD = torch.nn.functional.normalize(rows_LD, dim=1).to(world.bias_D.device)
        self.rate, self.bias_D = k / n_latents, world.bias_D

    def encode(self, x_ND: Tensor, truth_NF: Tensor) -> tuple[Codes, Tensor]:
        fires_NL = torch.rand(len(x_ND), len(self.W_dec_LD), generator=self.generator) < self.rate
        token, latent = fires_NL.to(x_ND.device).nonzero(as_tuple=True)
        value = torch.ones(len(token), device=x_ND.device)
        return Codes(token, latent, value, *fires_NL.shape), self.bias_D.expand_as(x_ND)


def nearest(W_dec_LD: Tensor, features_FD: Tensor) -> tuple[Tensor, Tensor]:
    """Return |cosine| of all latents and features [L, F], and the nearest feature of each latent [L]."""
    unit_LD = torch.nn.functional.normalize(W_dec_LD.float(), dim=1)
    cosine_LF = (unit_LD @ torch.nn.functional.normalize(features_FD, dim=1).T).abs()
    return cosine_LF, cosine_LF.argmax(dim=1)


def mcc(cosine_LF: Tensor) -> float:
    """Return the mean of the matched cosines; latents or features that are left over do not count."""
    weights = cosine_LF.double().cpu().numpy()
    weights = weights if weights.shape[0] <= weights.shape[1] else weights.T
    return float(weights[np.arange(len(weights)), best_assignment(weights)].mean())


def score(
    dictionary: Dictionary, world: World, samples: Iterable[tuple[Tensor, Tensor]], *, matching: bool = True
) -> dict[str, float]:
    """Return all scores over samples (magnitudes [N, F], activations [N, D]); MCC only if `matching`.

    One batch of [N, F] is in memory at a time, and the cosines [L, F].
    """
    cosine_LF, nearest_L = nearest(dictionary.W_dec_LD, world.features_FD)
    n_latents = len(nearest_L)
    hits_L, fired_L, present_L = (torch.zeros(n_latents, dtype=torch.float64) for _ in range(3))
    n, error, ratio = 0, 0.0, 0.0
    sum_D, square = torch.zeros(len(world.bias_D), dtype=torch.float64), 0.0
    for truth_NF, x_ND in samples:
        codes, x_hat_ND = dictionary.encode(x_ND, truth_NF)
        if codes.padded:
            codes = codes.where(codes.token_N < codes.n_tokens)
        is_there_N = truth_NF[codes.token_N, nearest_L[codes.latent_N]] > 0
        hits_L += torch.bincount(codes.latent_N[is_there_N], minlength=n_latents).cpu()
        fired_L += torch.bincount(codes.latent_N, minlength=n_latents).cpu()
        present_L += (truth_NF > 0).sum(dim=0)[nearest_L].cpu()
        n += len(x_ND)
        error += float(wide(x_ND - x_hat_ND).square().sum())
        ratio += float((x_hat_ND.norm(dim=1) / x_ND.norm(dim=1).clamp(min=1e-6)).double().sum())
        sum_D += x_ND.double().sum(dim=0).cpu()
        square += float(wide(x_ND).square().sum())
    precision_L = hits_L / fired_L.clamp(min=1)
    recall_L = hits_L / present_L.clamp(min=1)
    f1_L = 2 * hits_L / (fired_L + present_L).clamp(min=1)
    found = {
        "f1": float(f1_L.mean()), "precision": float(precision_L.mean()), "recall": float(recall_L.mean()),
        "uniqueness": len(torch.unique(nearest_L)) / n_latents,
        "explained_variance": 1 - error / (square - float(sum_D.square().sum()) / n), "shrinkage": ratio / n,
        "l0": float(fired_L.sum()) / n, "dead": float((fired_L == 0).double().mean())}
    return {"mcc": mcc(cosine_LF), **found} if matching else found
