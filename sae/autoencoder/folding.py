"""Folding of training's input scale into the weights, so that an artefact takes raw activations.

In training y = s·x.  With unit decoder rows, f/s is the activation on raw x.  So everything measured in units of
activations is divided by s: the biases, thresholds, a gate's offset.  Directions and log gains are not. A transcoder's
target has its own scale, t = s_out·x_out, which is also the scale of its latents:

    f/s_out = select((x − b_in/s) · (s/s_out)·W_encᵀ + b_enc/s_out)
    x̂_out   = f/s_out · W_dec + b_dec/s_out
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sae.autoencoder.architectures import REGISTRY


def fold_scale(
    tensors: Mapping[str, Tensor], architecture: str, s: float, s_out: float | None = None
) -> dict[str, Tensor]:
    """Return copies of the trained tensors for raw inputs and outputs.  `s_out` is a transcoder's scale of its target.
    """
    s_out = s if s_out is None else s_out
    divisor = dict.fromkeys(("b_enc", "b_dec", *REGISTRY[architecture].lengths), s_out)
    divisor |= {"b_in": s, "W_enc": s_out / s, "W_skip": s_out / s}
    return {name: tensor / divisor[name] if divisor.get(name, 1.0) != 1.0 else tensor.clone()
            for name, tensor in tensors.items()}
