"""The optimiser step: clip the gradients, take one Adam step, and normalise the decoder rows.

A decoder row's norm stays 1, so the component of its gradient along the row is removed first.  The weights are clipped
together, and the rule's own parameters together, because their gradients have other sizes.  On a GPU the two large
matrices are read and written once for all of this (`sae.kernels.triton_adam`).

Shapes: L latents, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_

from sae.distributed import Group
from sae.kernels.device import on_gpu
from sae.kernels.unit_rows import normalize_, remove_parallel_

ADAM_BETAS = (0.9, 0.99)  # BatchTopK paper, appendix A.1
ADAM_EPS = 6.25e-10  # Gao et al. 2024: gradients of a normalised loss are far below Adam's usual 1e-8
OF_SPACE = frozenset({"b_dec", "b_in"})  # the parameters without a row or an entry for each latent
_CLIP_EPS = 1e-6  # as torch adds it to the norm


class SAEOptimizer:
    """Adam over the parameters of one SAE, with clipped gradients and decoder rows of unit norm.

    `weights` are W_enc, b_enc, W_dec, b_dec and a transcoder's b_in; `rule` are the architecture's own parameters.
    `adam` is torch's optimiser, so its state has torch's layout.
    """

    def __init__(
        self, weights: Mapping[str, Parameter], rule: Mapping[str, Parameter], clip_norm: float, group: Group
    ) -> None:
        self.weights, self.rule, self.clip_norm, self.group = weights, rule, clip_norm, group
        parameters = [*weights.values(), *rule.values()]
        self.adam = torch.optim.Adam(parameters, lr=1.0, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)
        self._counted = self._done = 0  # the last step in the state of the weights, and the last one of the kernels

    def step(self, lr: float, number: int) -> None:
        """Take step number `number` (1 for the first) from the gradients of the parameters."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        W_dec = self.weights["W_dec"]
        if on_gpu(W_dec):
            self._step_rows(lr, number)
            if self.rule:  # `adam` finds no other gradients
                self._clip(self.rule)
                self.adam.step()
            return
        remove_parallel_(_grad(W_dec), W_dec.data)
        self._clip(self.weights)
        if self.rule:
            self._clip(self.rule)
        self.adam.step()
        normalize_(W_dec.data)

    def state(self) -> dict[str, Any]:
        """Return torch's state of Adam."""
        if self._counted != self._done:  # the GPU's kernels do not count their steps in it
            for parameter in self.weights.values():
                _state(self.adam, parameter)["step"].fill_(self._done)
            self._counted = self._done
        return self.adam.state_dict()

    def forget(self, latents_M: Tensor) -> None:
        """Set Adam's moments of these latents to 0 in every parameter that has a row or an entry for each latent."""
        for name, parameter in {**self.weights, **self.rule}.items():
            if name not in OF_SPACE:
                for moment in ("exp_avg", "exp_avg_sq"):
                    self.adam.state[parameter][moment][latents_M] = 0.0

    def _clip(self, parameters: Mapping[str, Parameter]) -> None:
        norm = _norm({name: _grad(p) for name, p in parameters.items()}, self.group)
        if norm.device.type != "cpu":  # no branch waits for a GPU
            scale = (self.clip_norm / (norm + _CLIP_EPS)).clamp(max=1.0)
            for parameter in parameters.values():
                _grad(parameter).mul_(scale)
        elif norm > self.clip_norm:
            clip_grads_with_norm_(parameters.values(), self.clip_norm, norm)

    def _step_rows(self, lr: float, number: int) -> None:
        """Take the whole step of the weights in the kernels' passes over rows; a bias is a row's, or a row itself."""
        from sae.kernels import triton_adam

        L, rows = len(self.weights["W_dec"]), list(self._rows())
        square_R = torch.empty(2 * L + len(rows) - 2, device=self.weights["W_dec"].device)
        begin = 0
        for weight, bias, unit in rows:
            matrix = _matrix(weight.data)
            triton_adam.square_norms(_matrix(_grad(weight)), matrix, square_R[begin : begin + len(matrix)], unit=unit,
                                     bias_grad_L=None if bias is None else _grad(bias))
            begin += len(matrix)
        if self.group.shards > 1:
            square = self.group.sum_latents(square_R[: 2 * L].sum()) + square_R[2 * L :].sum()
        else:
            square = square_R.sum()
        for weight, bias, unit in rows:
            mean, second = map(_matrix, self._moments(weight))
            triton_adam.adam_step(
                _matrix(weight.data), _matrix(_grad(weight)), (mean, second), square=square, clip=self.clip_norm,
                step=number, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPS, unit=unit,
                bias=None if bias is None else (bias.data, _grad(bias), self._moments(bias)))
        for weight in self.weights.values():
            weight.grad = None
        self._done = number

    def _rows(self) -> Iterator[tuple[Parameter, Parameter | None, bool]]:
        """Yield each matrix with its rows' biases, and whether its rows are of unit norm; then the other vectors."""
        yield self.weights["W_enc"], self.weights["b_enc"], False
        yield self.weights["W_dec"], None, True
        for name in sorted(OF_SPACE & self.weights.keys()):
            yield self.weights[name], None, False

    def _moments(self, parameter: Parameter) -> tuple[Tensor, Tensor]:
        state = _state(self.adam, parameter)
        return state["exp_avg"], state["exp_avg_sq"]


def _matrix(tensor: Tensor) -> Tensor:
    """Return a matrix as it is, and a vector as the only row of one."""
    return tensor if tensor.ndim == 2 else tensor[None]


def _norm(grads: Mapping[str, Tensor], group: Group) -> Tensor:
    """Return the norm of all gradients together; each shard has the gradients of its own latents."""
    of_space = _square([grad for name, grad in grads.items() if name in OF_SPACE])
    of_latents = _square([grad for name, grad in grads.items() if name not in OF_SPACE])
    return (group.sum_latents(of_latents) + of_space).sqrt()


def _square(grads: list[Tensor]) -> Tensor:
    """Return the sum of all squares: a dot product, which reads memory twice as fast as torch's norm."""
    return sum((torch.dot(grad.reshape(-1), grad.reshape(-1)) for grad in grads), torch.zeros(()))


def _state(optimizer: torch.optim.Adam, parameter: Parameter) -> dict[str, Any]:
    """Return Adam's state of a parameter, made in torch's own form if missing, so that checkpoints are the same."""
    state: dict[str, Any] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter.data), torch.zeros_like(parameter.data)
    return state


def _grad(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
