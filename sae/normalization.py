"""What is done to an activation before the SAE sees it, and how it is undone.

    none        y = x
    dataset     y = s·x, one s for the data set, with E‖y‖² = D; folded into the biases at the end
    layer_norm  y = (x − mean(x)) / (std(x) + 1e-5) per token, std unbiased, as the BatchTopK
                authors' code does; cannot be folded, so it stays an attribute of the SAE

Shapes: B tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = 1e-5


@dataclass(frozen=True)
class Normalizer:
    """`kind` is none, dataset or layer_norm; `factor` is s of the dataset kind."""

    kind: str
    factor: float = 1.0

    @classmethod
    def fit(cls, kind: str, x_BD: Tensor) -> Normalizer:
        """With s from a sample of activations where `kind` needs one."""
        if kind != "dataset":
            return cls(kind)
        mean_square = float(x_BD.float().square().sum(dim=1).mean())
        return cls(kind, (x_BD.shape[1] / mean_square) ** 0.5 if mean_square > 0 else 1.0)

    def apply(self, x_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(y [B, D], scale [B, 1], shift [B, 1]) with x = y·scale + shift."""
        if self.kind == "layer_norm":
            shift_B1 = x_BD.mean(dim=1, keepdim=True)
            scale_B1 = x_BD.std(dim=1, keepdim=True) + _EPS
            return (x_BD - shift_B1) / scale_B1, scale_B1, shift_B1
        ones_B1 = torch.ones(len(x_BD), 1, device=x_BD.device)
        return x_BD * self.factor, ones_B1 / self.factor, torch.zeros_like(ones_B1)
