"""Gated (Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated SAEs").

    gate  = z + b_enc             z = (y − b_dec) · W_encᵀ, the product that both paths share
    f     = 1[gate > 0] · ReLU(exp(r_mag) · z + b_mag)
    loss  = FVU(f) + w · [λ · mean_B Σ ReLU(gate) / √var + FVU(ReLU(gate), through a detached decoder)]

The artefact's `b_enc` is the paper's b_gate.  The last term trains the gate, whose step function has no gradient.  The
decoder and b_dec must not learn from that term, or the L1 would shrink them. The encoder, which both paths share, does
learn from it; at the paper's w = 1 the gate dominates.
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
from sae.autoencoder.architectures.relu import l1_weight
from sae.kernels.codes import Codes
from sae.kernels.select import above_threshold
from sae.specs.registry import TrainSpec


class Gated(Sparsity):
    """A rule in which one product decides by its sign, and measures with a gain and an offset for each latent."""

    has_k = False
    independent = True
    has_auxk = False
    start_bias = -1.5  # like ReLU's
    lengths = frozenset({"b_mag"})
    coefficient: float
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

    def select(self, pre_BL: Tensor, latents: Tensor | None = None) -> Codes:
        gain_L, b_mag_L, b_gate_L = self.r_mag_L.exp(), self.b_mag_L, self.b_gate_L
        if latents is not None:
            gain_L, b_mag_L, b_gate_L = gain_L[latents], b_mag_L[latents], b_gate_L[latents]
        gate = above_threshold(pre_BL, 0.0)
        value_N = (gate.value_N - b_gate_L[gate.latent_N]) * gain_L[gate.latent_N] + b_mag_L[gate.latent_N]
        return gate.with_values(value_N).where(value_N > 0)

    def select_from_pairs(self, codes: Codes) -> tuple[Codes, Tensor]:
        latent_N = codes.latent_N
        value_N = (codes.value_N - self.b_gate_L[latent_N]) * self.r_mag_L.exp()[latent_N] + self.b_mag_L[latent_N]
        active_N = (codes.value_N > 0) & (value_N > 0)
        return codes.with_values(value_N).where(active_N), active_N

    # ---- in training

    def setup(self, spec: TrainSpec, start: DataStatistics, device: torch.device) -> None:
        n_latents = spec.n_latents // self.group.shards
        self.r_mag_L = Parameter(torch.zeros(n_latents, device=device))
        self.b_mag_L = Parameter(torch.zeros(n_latents, device=device))
        self.coefficient, self.gate_weight = spec.l1_coefficient, spec.gate_weight

    def parameters(self) -> dict[str, Parameter]:
        assert isinstance(self.r_mag_L, Parameter)
        assert isinstance(self.b_mag_L, Parameter)
        return {"r_mag": self.r_mag_L, "b_mag": self.b_mag_L}

    def learn(self, batch: Batch) -> Learned:
        gate = above_threshold(batch.pre_BL, 0.0)
        latent_N = gate.latent_N
        gain_N = self.r_mag_L.exp()[latent_N]
        scaled_N = (gate.value_N - batch.b_enc_L[latent_N]) * gain_N
        value_N = scaled_N + self.b_mag_L[latent_N]
        active_N = value_N > 0
        result = reconstruction_loss(gate.with_values(value_N * active_N), batch)
        grad_value_N = result.grad_value_N * active_N
        self.r_mag_L.grad = gate.with_values(grad_value_N * scaled_N).latent_sum_L()
        self.b_mag_L.grad = gate.with_values(grad_value_N).latent_sum_L()

        weight = self.gate_weight * l1_weight(self.coefficient, batch)
        penalty = weight * self.group.sum_latents(gate.value_N.sum())
        error_BD = batch.target_BD - (batch.decode(gate) + batch.b_dec_D)
        per_token = self.gate_weight * batch.per_token
        grad_BD = error_BD * (-2.0 * per_token)
        grad_gate_N = gate.sampled_product(grad_BD, batch.W_dec_LD) + weight
        loss = result.loss + penalty + per_token * error_BD.square().sum()
        return Learned(gate.with_values(value_N).kept(active_N), result.error_BD, loss, penalty,
                       gate.with_values(grad_gate_N + grad_value_N * gain_N), result.grad_W_dec_LD,
                       result.grad_b_dec_D, grad_b_enc_L=gate.with_values(grad_gate_N).latent_sum_L())

    def reset(self, latents: Tensor) -> None:
        self.r_mag_L.data[latents] = 0.0
        self.b_mag_L.data[latents] = 0.0
