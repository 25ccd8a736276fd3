"""The fused step equals the sequence of torch's operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.sae.kernels.interpreter import DEVICE

from sae.kernels import triton_adam  # isort: skip

BETAS, EPS, LR = (0.9, 0.99), 6.25e-10, 0.01


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), L=st.integers(1, 6), D=st.sampled_from([2, 31, 32, 100, 700]),
       kind=st.sampled_from(["unit", "plain", "with biases"]))
def test_steps_are_those_of_torch(seed: int, L: int, D: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    unit, biased = kind == "unit", kind == "with biases"
    W_LD, b_L = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((L, D), (L,)))
    W_LD /= W_LD.norm(dim=1, keepdim=True)
    reference, bias = torch.nn.Parameter(W_LD.clone()), torch.nn.Parameter(b_L.clone())
    optimizer = torch.optim.Adam([reference, bias], lr=LR, betas=BETAS, eps=EPS)
    found, found_b = W_LD.float().to(DEVICE), b_L.float().to(DEVICE)
    moments, moments_b = (tuple(torch.zeros_like(one) for _ in range(2)) for one in (found, found_b))
    norm_L = torch.empty(L, device=DEVICE)
    for step in range(1, 5):
        grad, grad_b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((L, D), (L,)))
        grad[0] *= step != 2  # a latent that does not fire
        on_device, on_device_b = grad.float().to(DEVICE), grad_b.float().to(DEVICE)
        triton_adam.square_norms(on_device, found, norm_L, unit=unit, bias_grad_L=on_device_b if biased else None)
        wanted = grad - (grad * reference.data).sum(dim=1, keepdim=True) * reference.data if unit else grad
        square = wanted.square().sum() + (grad_b.square().sum() if biased else 0.0)
        assert float(norm_L.sum()) == pytest.approx(float(square), rel=1e-4, abs=1e-6)
        triton_adam.adam_step(found, on_device, moments, square=norm_L.sum(), clip=0.7, step=step, lr=LR, betas=BETAS,
                              eps=EPS, unit=unit, bias=(found_b, on_device_b, moments_b) if biased else None)
        clip = min(1.0, 0.7 / (float(square) ** 0.5 + triton_adam.CLIP_EPS))
        reference.grad, bias.grad = wanted * clip, grad_b * clip if biased else None
        optimizer.step()
        if unit:
            reference.data /= reference.data.norm(dim=1, keepdim=True)
    for one, other, kept in ((found, reference, moments), (found_b, bias, moments_b)):
        torch.testing.assert_close(one.cpu().double(), other.data, rtol=1e-4, atol=1e-5)
        for moment, name in zip(kept, ("exp_avg", "exp_avg_sq"), strict=True):
            if name in optimizer.state[other]:
                torch.testing.assert_close(moment.cpu().double(), optimizer.state[other][name], rtol=1e-4, atol=1e-5)
