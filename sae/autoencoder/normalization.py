"""Normalisation of an activation before the SAE reads it, and its inverse.

    none        y = x
    dataset     y = s·x, one s for the data set, with E‖y‖² = D; folded into the biases at the end
    layer_norm  y = (x − mean(x)) / (std(x) + 1e-5) per token, std unbiased, like the BatchTopK
                authors' code; cannot be folded, so it stays an attribute of the SAE
    layer_norm_std  the same y, but inverted with std(x) alone, like OpenAI's and SAELens' code
    constant_norm   y = x · √D / ‖x‖ per token (SAELens' constant_norm_rescale)
    centre      y = x − mean(x) per token: the activations of a model with centred writing weights

SAEs are trained here with the first three; the others come with imported SAEs.

Shapes: B tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("none", "dataset", "layer_norm", "layer_norm_std", "constant_norm", "centre")  # allowed in an artefact
_EPS = 1e-5


@dataclass(frozen=True)
class Normalizer:
    """A normalisation.  `kind` is one of `KINDS`; `factor` is s of the dataset kind."""

    kind: str
    factor: float = 1.0

    @classmethod
    def fit(cls, kind: str, x_BD: Tensor) -> Normalizer:
        """Make a normaliser, with s from a sample of activations if `kind` needs it."""
        if kind != "dataset":
            return cls(kind)
        mean_square = float(x_BD.float().square().sum(dim=1).mean())
        return cls(kind, (x_BD.shape[1] / mean_square) ** 0.5 if mean_square > 0 else 1.0)

    def apply(self, x_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (y [B, D], scale [B, 1], shift [B, 1]).

        A reconstruction of y is mapped back by y·scale + shift, which gives x for y itself (up to 1e-5/std under
        layer_norm_std).
        """
        if self.kind in ("layer_norm", "layer_norm_std"):
            shift_B1 = x_BD.mean(dim=1, keepdim=True)
            centred_BD = x_BD - shift_B1
            # `Tensor.std` takes ten times as long on a CPU.
            std_B1 = centred_BD.norm(dim=1, keepdim=True) / (x_BD.shape[1] - 1) ** 0.5
            scale_B1 = std_B1 + _EPS
            return centred_BD / scale_B1, scale_B1 if self.kind == "layer_norm" else std_B1, shift_B1
        if self.kind == "centre":
            shift_B1 = x_BD.mean(dim=1, keepdim=True)
            return x_BD - shift_B1, torch.ones_like(shift_B1), shift_B1
        if self.kind == "constant_norm":
            scale_B1 = x_BD.norm(dim=1, keepdim=True).clamp(min=_EPS**2) / x_BD.shape[1] ** 0.5
            return x_BD / scale_B1, scale_B1, torch.zeros_like(scale_B1)
        ones_B1 = torch.ones(len(x_BD), 1, device=x_BD.device)
        return x_BD * self.factor, ones_B1 / self.factor, torch.zeros_like(ones_B1)
