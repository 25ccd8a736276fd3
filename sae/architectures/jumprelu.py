"""JumpReLU (Rajamanoharan et al. 2024, "Jumping Ahead"): `f = pre · 1[pre > θ]`, one θ a latent."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sae.architectures.base import Sparsity
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold


class JumpReLU(Sparsity):
    """Selection by each latent's own threshold, kept as the raw value in float32."""

    has_k = False
    independent = True
    theta_L: Tensor

    @classmethod
    def tensor_shapes(cls, n_latents: int) -> dict[str, set[tuple[int, ...]]]:
        return {"threshold": {(n_latents,)}}

    def tensors(self) -> dict[str, Tensor]:
        return {"threshold": self.theta_L}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.theta_L = tensors["threshold"].float()

    def select_training(self, pre_BL: Tensor) -> Codes:
        return self.select(pre_BL)

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return above_threshold(pre_BL, self.theta_L if latents is None else self.theta_L[latents])
