"""Every architecture's training loss as defined: dense, in float64, for autograd to differentiate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.specs.registry import prefix_sizes
from sae.training.trainer import SAETrainer

Leaves = dict[str, Tensor]


class _JumpReLU(torch.autograd.Function):
    """The function z·1[z > θ], with the paper's stand-in for its derivative by θ (equation 11)."""

    @staticmethod
    def forward(ctx: Any, z_BL: Tensor, theta_L: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z_BL, theta_L)
        ctx.epsilon = epsilon
        return z_BL * (z_BL > theta_L)

    @staticmethod
    def backward(ctx: Any, grad_BL: Tensor) -> Any:
        z_BL, theta_L = ctx.saved_tensors
        window_BL = ((z_BL - theta_L) / ctx.epsilon).abs() < 0.5
        return grad_BL * (z_BL > theta_L), (-(theta_L / ctx.epsilon) * window_BL * grad_BL).sum(dim=0), None


class _Step(torch.autograd.Function):
    """The function 1[z > θ], with the paper's stand-in for its derivative by θ (equation 12) and none by z."""

    @staticmethod
    def forward(ctx: Any, z_BL: Tensor, theta_L: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z_BL, theta_L)
        ctx.epsilon = epsilon
        return (z_BL > theta_L).to(z_BL.dtype)

    @staticmethod
    def backward(ctx: Any, grad_BL: Tensor) -> Any:
        z_BL, theta_L = ctx.saved_tensors
        window_BL = ((z_BL - theta_L) / ctx.epsilon).abs() < 0.5
        return None, (-(1 / ctx.epsilon) * window_BL * grad_BL).sum(dim=0), None


def strongest(acts_BL: Tensor, k: int, over_batch: bool) -> Tensor:
    """Return the mask of the k largest of each row, or the k·B largest of all."""
    if over_batch:
        return acts_BL >= acts_BL.reshape(-1).sort(descending=True).values[k * len(acts_BL) - 1]
    return acts_BL >= acts_BL.sort(dim=1, descending=True).values[:, k - 1 : k]


def reference(trainer: SAETrainer, y_BD: Tensor, target_BD: Tensor | None = None) -> tuple[Tensor, Tensor, Leaves]:
    """Return (loss, AuxK, the leaves to differentiate by) of a trainer on a batch."""
    spec = trainer.spec
    leaf = {name: tensor.double().clone().requires_grad_() for name, tensor in trainer.tensors().items()}
    y_BD = y_BD.double()
    t_BD = y_BD if target_BD is None else target_BD.double()
    z_BL = (y_BD - leaf.get("b_in", leaf["b_dec"])) @ leaf["W_enc"].T
    pre_BL = z_BL + leaf["b_enc"]
    acts_BL = pre_BL.relu()
    warm = min(1.0, (trainer.steps_done + 1) / (trainer.n_steps * spec.sparsity_warmup))
    spread = trainer.variance**0.5

    def fvu(codes_BL: Tensor, W_dec_LD: Tensor = leaf["W_dec"], b_dec_D: Tensor = leaf["b_dec"]) -> Tensor:
        return (t_BD - codes_BL @ W_dec_LD - b_dec_D).square().sum(dim=1).mean() / trainer.variance

    over_batch = spec.architecture != "topk"
    if spec.architecture == "relu":
        codes_BL = acts_BL
        loss = fvu(codes_BL) + warm * spec.l1_coefficient * codes_BL.sum(dim=1).mean() / spread
    elif spec.architecture == "jumprelu":
        epsilon = spec.bandwidth * trainer.start.input_scale
        codes_BL = _JumpReLU.apply(pre_BL, leaf["threshold"], epsilon)
        l0 = _Step.apply(pre_BL, leaf["threshold"], epsilon).sum(dim=1).mean()
        penalty = (l0 / spec.k - 1) ** 2 if spec.l0_penalty == "target" else l0
        loss = fvu(codes_BL) + warm * spec.l0_coefficient * penalty
    elif spec.architecture == "gated":
        codes_BL = (pre_BL > 0) * (leaf["r_mag"].exp() * z_BL + leaf["b_mag"]).relu()
        of_gate = (warm * spec.l1_coefficient * acts_BL.sum(dim=1).mean() / spread
                   + fvu(acts_BL, leaf["W_dec"].detach(), leaf["b_dec"].detach()))
        loss = fvu(codes_BL) + spec.gate_weight * of_gate
    elif spec.architecture == "matryoshka":
        codes_BL = acts_BL * strongest(acts_BL.detach(), spec.k, over_batch)
        sizes = prefix_sizes(spec.prefixes, spec.n_latents)
        loss = torch.stack([fvu(codes_BL * (torch.arange(spec.n_latents) < w)) for w in sizes]).mean()
    else:
        codes_BL = acts_BL * strongest(acts_BL.detach(), spec.k, over_batch)
        loss = fvu(codes_BL)
        if spec.multi_topk:
            loss = loss + fvu(acts_BL * strongest(acts_BL.detach(), 4 * spec.k, over_batch)) / 8

    e_BD = (t_BD - codes_BL @ leaf["W_dec"] - leaf["b_dec"]).detach()
    dead = (trainer.silent_tokens_L > trainer.dead_after_tokens).nonzero().squeeze(1)
    if spec.architecture in ("relu", "gated") or not len(dead):
        return loss, torch.zeros(()), leaf
    aux_BM = acts_BL[:, dead]
    if len(dead) > trainer.k_aux:
        aux_BM = aux_BM * strongest(aux_BM.detach(), trainer.k_aux, over_batch=False)
    aux = (e_BD - aux_BM @ leaf["W_dec"][dead]).square().sum() / (e_BD - e_BD.mean(dim=0)).square().sum()
    return loss + spec.aux_alpha * aux, aux.detach(), leaf
