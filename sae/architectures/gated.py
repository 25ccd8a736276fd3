"""Gated (Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated SAEs").

    gate  = z + b_enc             z = (y − b_dec) · W_encᵀ, the product that both paths share
    f     = 1[gate > 0] · ReLU(exp(r_mag) · z + b_mag)

`b_enc` of the artefact is the paper's b_gate.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sae.architectures.base import Sparsity
from sae.kernels.codes import Codes


class Gated(Sparsity):
    """One product decides by its sign and measures by a gain and an offset of each latent."""

    has_k = False
    independent = True
    r_mag_L: Tensor
    b_mag_L: Tensor
    b_gate_L: Tensor

    @classmethod
    def tensor_shapes(cls, n_latents: int) -> dict[str, set[tuple[int, ...]]]:
        return {"r_mag": {(n_latents,)}, "b_mag": {(n_latents,)}}

    def tensors(self) -> dict[str, Tensor]:
        return {"r_mag": self.r_mag_L, "b_mag": self.b_mag_L}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.r_mag_L, self.b_mag_L, self.b_gate_L = tensors["r_mag"], tensors["b_mag"], tensors["b_enc"]

    def select_training(self, pre_BL: Tensor) -> Codes:
        return self.select(pre_BL)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        gain_L, b_mag_L, b_gate_L = self.r_mag_L.exp(), self.b_mag_L, self.b_gate_L
        if latents is not None:
            gain_L, b_mag_L, b_gate_L = gain_L[latents], b_mag_L[latents], b_gate_L[latents]
        flat_N = (pre_BL > 0).reshape(-1).nonzero().squeeze(1)
        latent_N = flat_N % pre_BL.shape[1]
        value_N = (pre_BL.reshape(-1)[flat_N].float() - b_gate_L[latent_N]) * gain_L[latent_N] + b_mag_L[latent_N]
        active_N = value_N > 0
        return Codes.from_flat(flat_N[active_N], value_N[active_N], *pre_BL.shape)
