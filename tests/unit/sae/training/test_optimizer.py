"""The optimiser step against one written out in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from sae.distributed import ALONE
from sae.training.optimizer import ADAM_BETAS, ADAM_EPS, OF_SPACE, SAEOptimizer

L, D = 6, 4
SHAPES = {"W_enc": (L, D), "b_enc": (L,), "W_dec": (L, D), "b_dec": (D,), "b_in": (D,)}
RULE = {"threshold": (L,)}


def made(seed: int, clip_norm: float) -> tuple[SAEOptimizer, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    weights, rule = ({name: Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
                     for shapes in (SHAPES, RULE))
    W_dec = weights["W_dec"].data
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    return SAEOptimizer(weights, rule, clip_norm, ALONE), generator


def set_grads(optimizer: SAEOptimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """Set random gradients, and return copies of them."""
    for parameter in (*optimizer.weights.values(), *optimizer.rule.values()):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return {name: p.grad.double() for name, p in {**optimizer.weights, **optimizer.rule}.items()
            if p.grad is not None}


def clipped(grads: dict[str, Tensor], names: set[str], norm: float) -> dict[str, Tensor]:
    whole = float(torch.cat([grads[name].flatten() for name in names]).norm())
    return {name: grads[name] * min(1.0, norm / (whole + 1e-6)) for name in names}


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), clip_norm=st.sampled_from([0.01, 1.0, 1e9]), lr=st.sampled_from([1e-3, 0.1]))
def test_a_step_clips_moves_and_keeps_rows_of_the_decoder_at_length_one(
    seed: int, clip_norm: float, lr: float
) -> None:
    optimizer, generator = made(seed, clip_norm)
    parameters = {**optimizer.weights, **optimizer.rule}
    value = {name: p.detach().double().clone() for name, p in parameters.items()}
    moments = {name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in value.items()}
    for step in (1, 2, 3):
        grads = set_grads(optimizer, generator)
        grads["W_dec"] -= (grads["W_dec"] * value["W_dec"]).sum(dim=1, keepdim=True) * value["W_dec"]
        grads = clipped(grads, set(SHAPES), clip_norm) | clipped(grads, set(RULE), clip_norm)
        optimizer.step(lr, step)
        for name, grad in grads.items():
            first, second = moments[name]
            first.mul_(ADAM_BETAS[0]).add_(grad * (1 - ADAM_BETAS[0]))
            second.mul_(ADAM_BETAS[1]).add_(grad.square() * (1 - ADAM_BETAS[1]))
            hat = first / (1 - ADAM_BETAS[0] ** step), second / (1 - ADAM_BETAS[1] ** step)
            value[name] -= lr * hat[0] / (hat[1].sqrt() + ADAM_EPS)
        value["W_dec"] /= value["W_dec"].norm(dim=1, keepdim=True)
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.detach().double(), value[name], rtol=1e-4, atol=1e-5, msg=name)


def test_what_is_forgotten_is_of_the_latents_alone() -> None:
    optimizer, generator = made(0, 1.0)
    for step in (1, 2):
        set_grads(optimizer, generator)
        optimizer.step(0.01, step)
    optimizer.forget(torch.tensor([1, 4]))
    for name, parameter in {**optimizer.weights, **optimizer.rule}.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            kept = optimizer.adam.state[parameter][moment]
            zero_L = kept.reshape(len(kept), -1).abs().sum(dim=1) == 0
            assert zero_L.nonzero()[:, 0].tolist() == ([] if name in OF_SPACE else [1, 4]), name


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_rules_parameters_are_clipped_on_their_own(scale: float) -> None:
    """Check that gradients of the rule, of whatever size, do not change the step of the weights."""
    found = []
    for factor in (1.0, scale):
        optimizer, generator = made(3, 0.5)
        set_grads(optimizer, generator)
        for parameter in optimizer.rule.values():
            assert parameter.grad is not None
            parameter.grad *= factor
        optimizer.step(0.01, 1)
        found.append({name: p.detach().clone() for name, p in optimizer.weights.items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in SHAPES)
