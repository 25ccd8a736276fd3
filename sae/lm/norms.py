"""A norm's gain, bias and centring, measured on the module instead of read off its class.

Some RMSNorms multiply by w, some by 1 + w, some by nothing; LayerNorms subtract the mean first.

Shapes: N random vectors, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.lm.dataflow import dtype_of, loosened

_N = 8  # random vectors
_SIZE = 8.0  # their rms, so that a norm's epsilon does not show


@dataclass(frozen=True)
class Norm:
    """norm(x) = gain · x̂ + bias, where x̂ is x, less its mean if `centred`, divided by its rms."""

    gain_D: Tensor
    bias_D: Tensor
    centred: bool

    def then(self, matrix_DM: Tensor) -> Tensor:
        """Return the linear map of the norm followed by x ↦ x · matrix, up to the scale of each token."""
        out_DM = self.gain_D[:, None] * matrix_DM
        return out_DM - out_DM.mean(dim=0, keepdim=True) if self.centred else out_DM

    def after(self, matrix_wD: Tensor) -> Tensor:
        """Return the linear map of x ↦ x · matrix followed by the norm, up to the scale of each token."""
        if self.centred:
            matrix_wD = matrix_wD - matrix_wD.mean(dim=1, keepdim=True)
        return matrix_wD * self.gain_D


def epsilon_of(module: Any) -> float:
    """Return what a norm adds to the mean square before the root."""
    found = (getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon"))
    return float(next((value for value in found if isinstance(value, float)), 1e-5))


def normalized(x: Tensor, centred: bool, epsilon: float = 0.0) -> Tensor:
    """Return x in float32, less its mean if `centred`, divided by its rms."""
    x = x.float()
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


@torch.no_grad()
def measure_norm(module: Callable[..., Any], width: int, device: torch.device) -> Norm:
    """Measure a norm of `width`.  A module that changes nothing is one with gain 1.

    Raises ValueError for a module that is neither.
    """
    dtype = dtype_of(module)
    near = loosened(1e-3, dtype)
    x_ND = _SIZE * torch.randn(_N, width, generator=torch.Generator().manual_seed(0)).to(device)
    bias_D = module(torch.zeros(1, 1, width, device=device, dtype=dtype)).float().to(device)[0, 0]

    def gains(x_ND: Tensor) -> Tensor:
        out: Tensor = module(x_ND[None].to(dtype)).float().to(device)[0] - bias_D
        return out

    out_ND = gains(x_ND)
    if torch.allclose(out_ND, x_ND, rtol=loosened(1e-5, dtype), atol=loosened(1e-6, dtype)):
        return Norm(torch.ones(width, device=device), bias_D, centred=False)
    centred = torch.allclose(gains(x_ND + _SIZE), out_ND, rtol=near, atol=near)
    unit_ND = normalized(x_ND, centred)
    gain_D = (out_ND * unit_ND).sum(0) / unit_ND.square().sum(0)
    if not torch.allclose(gain_D * unit_ND, out_ND, rtol=near, atol=near * float(out_ND.std())):
        raise ValueError(f"{type(module).__name__} is no norm over its input")
    exact = (candidate for candidate in _candidates(module, gain_D)
             if torch.allclose(candidate, gain_D, rtol=near, atol=near))
    return Norm(next(exact, gain_D), bias_D, centred)


def _candidates(module: Any, like_D: Tensor) -> Iterator[Tensor]:
    """The gains that a norm may have, to the last bit."""
    yield torch.ones_like(like_D)
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == like_D.shape and not weight.is_meta:
        yield weight.detach().float().to(like_D.device)
        yield 1 + weight.detach().float().to(like_D.device)
