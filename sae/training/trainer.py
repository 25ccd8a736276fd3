"""An SAE in training: parameters, one optimisation step with hand-derived gradients, and state.

    y      normalised activations; t is the target: y, or a transcoder's target
    pre    = (y − b_in) · W_encᵀ + b_enc         b_in is b_dec, except in a transcoder
    f      = select(pre)   sparse                loss = reconstruction + sparsity + α · AuxK
    ŷ      = f · W_dec + b_dec                   the first two are the architecture's, in units of FVU

`variance` is the variance per token of the data, fixed before the first step, so the loss has the same meaning on
every model.  The encoder product is the only work of size B x L; the decoder and all gradients work on the selected
pairs.  The product runs in bfloat16, on float32 weights.

Shapes: B tokens, L latents, D width, N selected pairs, M dead latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from sae.autoencoder.architectures import make
from sae.autoencoder.architectures.base import Sparsity
from sae.autoencoder.architectures.batch import Batch
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.distributed import ALONE, Group
from sae.kernels.codes import Codes
from sae.kernels.device import on_gpu
from sae.kernels.encoder import EncoderProduct
from sae.specs.registry import TrainSpec
from sae.training.auxk import auxk
from sae.training.dead import DeadLatents
from sae.training.optimizer import OF_SPACE, SAEOptimizer


@dataclass
class StepResult:
    """Sums over one batch, as zero-dimensional tensors, so that no read waits for the device."""

    codes: Codes
    error_BD: Tensor
    loss: Tensor
    aux_loss: Tensor
    sparsity_loss: Tensor


class SAETrainer:
    """The parameters of one SAE and their Adam state."""

    def __init__(
        self, spec: TrainSpec, start: DataStatistics, device: torch.device, product_dtype: torch.dtype = torch.bfloat16,
        group: Group = ALONE,
    ) -> None:
        self.spec, self.start, self.product_dtype, self.group = spec, start, product_dtype, group
        self._product = EncoderProduct()
        self.n_steps = spec.tokens // spec.batch_tokens
        self.steps_done = 0
        b_dec_D = start.b_dec_D.detach().clone().float().to(device)
        self.k_aux = spec.k_aux or len(b_dec_D) // 2
        self.dead_after_tokens = spec.dead_after_tokens or min(10_000_000, spec.tokens // 50)
        self.sparsity: Sparsity = make(spec.architecture, spec.k)
        self.sparsity.group = group

        generator = torch.Generator().manual_seed(spec.seed)
        W_dec_LD = group.latent_share(_unit_rows(spec.n_latents, len(b_dec_D), generator)).to(device)
        # The encoder starts as the decoder's transpose; a transcoder's encoder reads another space.
        W_enc_LD = W_dec_LD if start.b_in_D is None else group.latent_share(_unit_rows(
            spec.n_latents, len(start.b_in_D), generator)).to(device)
        if start.cross_ED is not None:
            W_dec_LD = torch.nn.functional.normalize(W_enc_LD @ start.cross_ED.to(device), dim=1)
        self.W_enc_LD, self.W_dec_LD = Parameter(W_enc_LD.clone()), Parameter(W_dec_LD.clone())
        bias = self.sparsity.start_bias * start.input_scale
        self.b_enc_L = Parameter(torch.full((len(W_dec_LD),), bias, device=device))
        self.b_dec_D = Parameter(b_dec_D)
        self.b_in_D = self.b_dec_D if start.b_in_D is None else Parameter(
            start.b_in_D.detach().clone().float().to(device))
        self.sparsity.setup(spec, start, device)
        self.dead = DeadLatents(len(W_dec_LD), self.dead_after_tokens, device, group)
        self._zero = torch.zeros((), device=device)
        self.optimizer = SAEOptimizer(self._weights(), self.sparsity.parameters(), spec.clip_norm, group)

    @property
    def variance(self) -> float:
        return self.start.variance

    def _weights(self) -> dict[str, Parameter]:
        """Return the parameters that every architecture has."""
        own = {"W_enc": self.W_enc_LD, "b_enc": self.b_enc_L, "W_dec": self.W_dec_LD, "b_dec": self.b_dec_D}
        if self.b_in_D is not self.b_dec_D:
            own["b_in"] = self.b_in_D
        return own

    def named_parameters(self) -> dict[str, Parameter]:
        """Return all trained parameters, by their names in an artefact."""
        return self._weights() | self.sparsity.parameters()

    def parameters(self) -> list[Parameter]:
        return list(self.named_parameters().values())

    @property
    def warm(self) -> float:
        """Return the share of the sparsity coefficient at the next step; it rises linearly from 0."""
        steps = self.n_steps * self.spec.sparsity_warmup
        return min(1.0, (self.steps_done + 1) / steps) if steps else 1.0

    @property
    def silent_tokens_L(self) -> Tensor:
        """Return the tokens since each latent was last active."""
        return self.dead.silent_tokens_L

    @property
    def dead_M(self) -> Tensor:
        """Return the latents that have been silent for too long."""
        return self.dead.latents()

    @property
    def n_dead(self) -> int:
        """Count the dead latents on all shards.  Collective."""
        return self.dead.numbers()[1]

    @torch.no_grad()
    def step(self, y_BD: Tensor, lr: float, target_BD: Tensor | None = None) -> StepResult:
        """Take one Adam step on a batch of normalised activations (float32), and a transcoder's targets."""
        result = self.gradients(y_BD, target_BD)
        self.optimizer.step(lr, self.steps_done + 1)
        self.sparsity.project()
        self._count_silence(result.codes, self.group.tokens(len(y_BD)))
        if self.spec.aux_alpha and self.sparsity.has_auxk:
            self.dead.note()
        self.steps_done += 1
        return result

    def _count_silence(self, codes: Codes, tokens: int) -> None:
        self.dead.seen += tokens
        if on_gpu(codes.value_N) and self.group.replicas == 1:
            from sae.kernels.triton_rows import silence

            silence(self.silent_tokens_L, codes.bounds_L1, tokens)
            return
        fired_L = codes.fired_L().long()
        self.silent_tokens_L.add_(tokens).mul_(self.group.sum_tokens(fired_L) == 0)

    @torch.no_grad()
    def gradients(self, y_BD: Tensor, target_BD: Tensor | None = None) -> StepResult:
        """Set `.grad` of every parameter to the gradient of the loss on this batch."""
        target_BD = y_BD if target_BD is None else target_BD
        input_BD = y_BD - self.b_in_D
        pre_BL = self._product(input_BD, self.W_enc_LD, self.b_enc_L, self.product_dtype)
        learned = self.sparsity.learn(Batch(
            pre_BL, target_BD, self.b_enc_L, self.W_dec_LD, self.b_dec_D, self.variance,
            self.group.tokens(len(y_BD)), self.warm, self.group))
        self.W_dec_LD.grad, self.b_dec_D.grad = learned.grad_W_dec_LD, learned.grad_b_dec_D
        grad_W_enc_LD = self.W_enc_LD.grad = learned.grad_pre.transpose_matmul(input_BD, self.W_enc_LD.grad)
        grad_pre_L = learned.grad_pre.latent_sum_L()
        self.b_enc_L.grad = grad_pre_L if learned.grad_b_enc_L is None else learned.grad_b_enc_L

        loss, aux_loss = learned.loss, self._zero
        alpha = self.spec.aux_alpha
        own, n_dead = self.dead.numbers() if alpha and self.sparsity.has_auxk else (0, 0)
        if n_dead:
            dead_M = self.dead.latents(own)
            aux = auxk(pre_BL[:, dead_M], input_BD, learned.error_BD, self.W_dec_LD[dead_M], self.k_aux, n_dead,
                       self.group)
            if aux is not None:
                aux_loss = aux.loss
                loss = loss + alpha * aux_loss
                learned.grad_W_dec_LD[dead_M] += alpha * aux.grad_W_dec_MD
                grad_W_enc_LD[dead_M] += alpha * aux.grad_W_enc_MD
                grad_pre_L[dead_M] += alpha * aux.grad_pre_M
        self._set_grad_b_in(grad_pre_L, learned.grad_b_dec_D)
        for parameter in self.parameters():
            assert parameter.grad is not None
            self.group.sum_tokens(parameter.grad)
        losses = torch.stack([loss, aux_loss, learned.sparsity_loss])
        return StepResult(learned.codes, learned.error_BD, *self.group.sum_tokens(losses))

    def _set_grad_b_in(self, grad_pre_L: Tensor, grad_b_dec_D: Tensor) -> None:
        """Add the gradient through the encoder's input, from which the bias is subtracted."""
        shared = self.b_in_D is self.b_dec_D
        if shared and on_gpu(grad_pre_L) and self.group.shards == 1:
            self.b_in_D.grad = torch.addmv(grad_b_dec_D, self.W_enc_LD.T, grad_pre_L, alpha=-1.0)
            return
        grad_in_D = -self.group.sum_latents(grad_pre_L @ self.W_enc_LD)
        self.b_in_D.grad = grad_b_dec_D + grad_in_D if shared else grad_in_D

    # ---- state

    def whole_tensors(self) -> dict[str, Tensor]:
        """Return the weights of all shards, by their names in an artefact.  Collective.

        They are on the CPU if there are several shards.
        """
        if self.group.shards == 1:
            return self.tensors()
        return {name: (tensor if name in OF_SPACE else torch.cat(list(self.group.gather_shards(tensor)))).cpu()
                for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by their names in an artefact."""
        return {name: parameter.detach() for name, parameter in self.named_parameters().items()}

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to continue bit for bit."""
        return {
            "tensors": self.tensors(), "optimizer": self.optimizer.state(), "silent": self.silent_tokens_L,
            "sparsity": self.sparsity.state(), "steps_done": self.steps_done,
            "start": {"variance": self.start.variance, "input_scale": self.start.input_scale},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `state` returned, in a trainer made from the same spec."""
        for name, parameter in self.named_parameters().items():
            parameter.data.copy_(state["tensors"][name])
        self.optimizer.adam.load_state_dict(state["optimizer"])
        self.silent_tokens_L.copy_(state["silent"])
        self.dead.seen = 2**62  # more than any latent can have been silent
        self.sparsity.load_state(state["sparsity"])
        self.steps_done = state["steps_done"]

    @classmethod
    def resumed(
        cls, spec: TrainSpec, state: dict[str, Any], device: torch.device, group: Group = ALONE
    ) -> SAETrainer:
        """Return a trainer with the state that it had when `state` was taken."""
        tensors = state["tensors"]
        statistics = DataStatistics(tensors["b_dec"], b_in_D=tensors.get("b_in"), **state["start"])
        trainer = cls(spec, statistics, device, group=group)
        trainer.load_state(state)
        return trainer


def _unit_rows(n_rows: int, width: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn(n_rows, width, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    return rows
