"""What follows the gradients: clip them, one Adam step, decoder rows of unit norm again.

The part of a decoder row's gradient along the row is taken out first, for the row's norm stays 1 anyway.
Weights are clipped together, and the rule's own parameters together: their gradients have other sizes.
On a GPU the two large matrices are read and written once for all of it (`sae.kernels.triton_adam`).

Shapes: L latents, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from sae.kernels.device import on_gpu
from sae.kernels.unit_rows import normalize_, remove_parallel_

if TYPE_CHECKING:
    from sae.distributed import Group
    from sae.training.trainer import Trainee

ADAM_BETAS = (0.9, 0.99)  # BatchTopK paper, appendix A.1
ADAM_EPS = 6.25e-10  # Gao et al. 2024: gradients of a normalised loss are far below Adam's usual 1e-8
OF_SPACE = frozenset({"b_dec", "b_in"})  # the parameters that are not a row or an entry for each latent
_ROWS = ("W_enc", "W_dec")
_CLIP_EPS = 1e-6  # as torch adds it to the norm


def adam(parameters: list[Parameter]) -> torch.optim.Adam:
    """The optimiser, whose learning rate is given at every step."""
    return torch.optim.Adam(parameters, lr=1.0, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)


def update(trainee: Trainee, lr: float) -> None:
    """One step from the gradients that the parameters have."""
    own = trainee.sparsity.parameters()
    weights = {name: p for name, p in trainee.named_parameters().items() if name not in own}
    for group in trainee.optimizer.param_groups:
        group["lr"] = lr
    if on_gpu(trainee.W_dec_LD):
        _update_rows(trainee, weights, lr)
    else:
        remove_parallel_(_grad(trainee.W_dec_LD), trainee.W_dec_LD.data)
        _clip(weights, trainee)
    if own:
        _clip(own, trainee)
    trainee.optimizer.step()
    if not on_gpu(trainee.W_dec_LD):
        normalize_(trainee.W_dec_LD.data)


def _clip(parameters: Mapping[str, Parameter], trainee: Trainee) -> None:
    norm = _norm({name: _grad(p) for name, p in parameters.items()}, trainee.group)
    if norm.device.type != "cpu" or norm > trainee.spec.clip_norm:  # a GPU is not waited for
        clip_grads_with_norm_(parameters.values(), trainee.spec.clip_norm, norm)


def _norm(grads: Mapping[str, Tensor], group: Group, more_of_latents: Tensor | float = 0.0) -> Tensor:
    """Of all gradients together; each shard has those of its own latents.  `more_of_latents` is a squared norm."""
    of_space = get_total_norm([grad for name, grad in grads.items() if name in OF_SPACE])
    of_latents = get_total_norm([grad for name, grad in grads.items() if name not in OF_SPACE])
    return (group.sum_latents(of_latents.square() + more_of_latents) + of_space.square()).sqrt()


def _update_rows(trainee: Trainee, weights: Mapping[str, Parameter], lr: float) -> None:
    """The whole step of the two matrices; the optimiser then finds only the clipped gradients of the others."""
    from sae.kernels import triton_adam

    squares = torch.zeros((), device=trainee.W_dec_LD.device)
    for name in _ROWS:
        squares = squares + triton_adam.square_norm(_grad(weights[name]), weights[name].data, unit=name == "W_dec")
    others = {name: p for name, p in weights.items() if name not in _ROWS}
    norm = _norm({name: _grad(p) for name, p in others.items()}, trainee.group, squares)
    clip = (trainee.spec.clip_norm / (norm + _CLIP_EPS)).clamp(max=1.0)
    for parameter in others.values():
        _grad(parameter).mul_(clip)
    for name in _ROWS:
        parameter, state = weights[name], _state(trainee.optimizer, weights[name])
        state["step"] += 1
        triton_adam.adam_step(
            parameter.data, _grad(parameter), state["exp_avg"], state["exp_avg_sq"], clip=clip,
            step=trainee.steps_done + 1, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPS, unit=name == "W_dec")
        parameter.grad = None


def _state(optimizer: torch.optim.Adam, parameter: Parameter) -> dict[str, Any]:
    """What Adam keeps of a parameter, in torch's own form, so that checkpoints are the same."""
    state: dict[str, Any] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter.data), torch.zeros_like(parameter.data)
    return state


def _grad(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
