"""JumpReLU (Rajamanoharan et al. 2024, "Jumping Ahead"): `f = pre · 1[pre > θ]`, one θ per latent.

θ is trained as its raw value, in float32, and kept at 0 or above.  Adam on log θ would move it by some millionths per
step, and half precision would lose such steps.  The step function has no gradient, so a rectangle of width ε around θ
replaces it (equations 11 and 12 of the paper):

    ∂f/∂θ = −(θ/ε) · 1[|pre − θ| < ε/2]        ∂L0/∂θ = −(1/ε) · 1[|pre − θ| < ε/2]

Both depend on pre-activations, so the lower half of the window, where the latent is silent, counts too.  The
pre-activation itself has a gradient of the reconstruction only where the latent is active.

    loss = FVU + λ · (mean L0 / k − 1)²     or     FVU + λ · mean L0

ε is in units of normalised activations: of the root mean square of a coordinate of the centred input.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from sae.autoencoder.architectures.base import Learned, Sparsity
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.architectures.losses import reconstruction_loss
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold, entries_above
from sae.specs.registry import TrainSpec

START_THETA = 1.0  # in the same units as ε: a random latent is then active on a sixth of the tokens
_COEFFICIENT = {"target": 1.0, "linear": 2e-3}  # λ if the settings have 0


class JumpReLU(Sparsity):
    """Selection by each latent's own threshold, stored as its raw value in float32."""

    has_k = False
    independent = True
    lengths = frozenset({"threshold"})
    coefficient: float
    theta_L: Tensor

    @classmethod
    def tensor_shapes(cls, n_latents: int) -> dict[str, set[tuple[int, ...]]]:
        return {"threshold": {(n_latents,)}}

    def tensors(self) -> dict[str, Tensor]:
        return {"threshold": self.theta_L}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.theta_L = tensors["threshold"].float()

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        return above_threshold(pre_BL, self.theta_L if latents is None else self.theta_L[latents])

    def threshold_for(self, codes: Codes | None = None) -> Tensor:
        return self.theta_L.detach().clamp(min=0.0)

    # ---- in training

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        n_latents = spec.n_latents // self.group.shards
        self.theta_L = Parameter(torch.full((n_latents,), START_THETA * start.input_scale, device=device))
        self.epsilon = spec.bandwidth * start.input_scale
        self.target = float(spec.k) if spec.l0_penalty == "target" else None
        self.coefficient = spec.l0_coefficient or _COEFFICIENT[spec.l0_penalty]

    def parameters(self) -> dict[str, Parameter]:
        assert isinstance(self.theta_L, Parameter)
        return {"threshold": self.theta_L}

    def learn(self, batch: Batch) -> Learned:
        near = self._near(batch.pre_BL)
        pre_N, theta_N = near.value_N, self.theta_L[near.latent_N]
        active_N = pre_N > theta_N
        result = reconstruction_loss(near.with_values(pre_N * active_N), batch)

        penalty, slope = self.penalty(self.group.sum_all(active_N.sum()) / batch.n_tokens)
        window_N = (pre_N - theta_N).abs() < self.epsilon / 2
        felt_N = theta_N * result.grad_value_N + batch.warm * slope / batch.n_tokens
        self.theta_L.grad = near.with_values(felt_N * window_N / -self.epsilon).latent_sum_L()
        penalty = batch.warm / self.group.replicas * penalty
        return Learned(near.kept(active_N), result.error_BD, result.loss + penalty, penalty,
                       near.with_values(result.grad_value_N * active_N), result.grad_W_dec_LD, result.grad_b_dec_D)

    def _near(self, pre_BL: Tensor) -> Codes:
        """Return every pair that is active, or silent within the window of its θ."""
        return entries_above(pre_BL, self.theta_L - self.epsilon / 2)

    def penalty(self, l0: Tensor) -> tuple[Tensor, Tensor]:
        """Return the penalty at a mean L0, and its derivative by L0."""
        if self.target is None:
            return self.coefficient * l0, torch.full_like(l0, self.coefficient)
        off = l0 / self.target - 1
        return self.coefficient * off.square(), 2 * self.coefficient / self.target * off

    def project(self) -> None:
        self.theta_L.data.clamp_(min=0.0)
