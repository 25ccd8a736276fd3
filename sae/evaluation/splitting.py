"""Feature splitting between dictionaries of two sizes, by the cosines of their decoder rows.

A latent of the smaller SAE is kept if one latent of the larger one points its way (cosine of at least 0.7), split if
several do, and lost if none does.  A latent of the larger SAE is novel if it points the way of none of the smaller's
(Leask et al. 2025, "Sparse Autoencoders Do Not Find Canonical Units of Analysis").

Shapes: S latents of the smaller SAE, B of the bigger one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.siblings import alive_of, load, of_other_sizes
from sae.evaluation.stability import SHARED

_ENTRIES = 1 << 24  # cosines in memory at once
_LISTED = 20

DEFINITIONS = {
    "kept": "Share of the smaller SAE's alive latents to which exactly one latent of the larger SAE has a cosine of "
            "at least 0.7.",
    "split": "Share of the smaller SAE's alive latents to which two or more latents of the larger SAE have a cosine "
             "of at least 0.7.",
    "lost": "Share of the smaller SAE's alive latents to which no latent of the larger SAE has a cosine of at least "
            "0.7.",
    "novel": "Share of the larger SAE's alive latents that have a cosine of at least 0.7 to no latent of the smaller "
             "SAE."}


class Splitting:
    """Kept, split, lost and novel latents between the subject and the SAE of the next size in its workspace."""

    name = "splitting"

    def refuse(self, subject: Subject) -> str | None:
        """Return why there is nothing to compare with, or None."""
        if of_other_sizes(subject):
            return None
        return ("splitting needs a second SAE of this site with the same architecture and k and another number of "
                "latents; train one with another --n-latents")

    def run(self, subject: Subject, progress: Progress) -> Result:
        """Compare the subject with the next larger SAE, or with the next smaller one if it is the largest."""
        others = of_other_sizes(subject)
        larger = [other for other in others if other[2] > subject.sae.n_latents]
        name, folder, size = larger[0] if larger else others[-1]
        other = load(folder, subject)
        pair = sorted([subject.sae, other], key=lambda sae: sae.n_latents)
        alive_S, alive_B = alive_of(subject, pair, progress)
        small, big = alive_S.nonzero().squeeze(1), alive_B.nonzero().squeeze(1)
        children_S, parents_B = near_counts(pair[0].W_dec_LD[small], pair[1].W_dec_LD[big], SHARED)
        n_small, n_big = len(small), len(big)
        order = children_S.argsort(descending=True, stable=True)[:_LISTED]
        return Result(self.name, (
            share("kept", int((children_S == 1).sum()), n_small), share("split", int((children_S > 1).sum()), n_small),
            share("lost", int((children_S == 0).sum()), n_small), share("novel", int((parents_B == 0).sum()), n_big),
        ), {"other": name, "sizes": [pair[0].n_latents, pair[1].n_latents], "other_latents": size,
            "most_split": [{"latent": int(small[i]), "parts": int(children_S[i])} for i in order.tolist()
                           if children_S[i] > 1]})


def near_counts(W_SD: Tensor, W_BD: Tensor, cosine: float) -> tuple[Tensor, Tensor]:
    """Return how many rows of the other matrix have at least this cosine to each row: [S] and [B], on the CPU."""
    unit_SD, unit_BD = (torch.nn.functional.normalize(W.float(), dim=1) for W in (W_SD, W_BD))
    children, parents_B = [torch.zeros(0, dtype=torch.int64)], torch.zeros(len(W_BD), dtype=torch.int64)
    for part_RD in torch.split(unit_SD, max(1, _ENTRIES // max(1, len(W_BD)))) if len(W_SD) else ():
        near_RB = part_RD @ unit_BD.T >= cosine
        children.append(near_RB.sum(dim=1).cpu())
        parents_B += near_RB.sum(dim=0).cpu()
    return torch.cat(children), parents_B


def share(key: str, count: int, n: int) -> Value:
    """Return a share with Wilson's 95% interval."""
    if not n:
        return Value(key, None, n=0, note="no latent is alive on the text read")
    z, p = 1.96, count / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Value(key, p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n), n)
