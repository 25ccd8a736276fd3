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
@given(seed=st.integers(0, 2**32), L=st.integers(1, 6), D=st.sampled_from([2, 31, 32, 100, 700]), unit=st.booleans())
def test_steps_are_those_of_torch(seed: int, L: int, D: int, unit: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    W_LD = torch.randn(L, D, generator=generator, dtype=torch.float64)
    W_LD /= W_LD.norm(dim=1, keepdim=True)
    reference = torch.nn.Parameter(W_LD.clone())
    optimizer = torch.optim.Adam([reference], lr=LR, betas=BETAS, eps=EPS)
    found, mean, square = W_LD.float().to(DEVICE), torch.zeros(L, D, device=DEVICE), torch.zeros(L, D, device=DEVICE)
    for step in range(1, 5):
        grad = torch.randn(L, D, generator=generator, dtype=torch.float64)
        grad[0] *= step != 2  # a latent that does not fire
        clip = torch.tensor(0.3)
        norm = triton_adam.square_norm(grad.float().to(DEVICE), found, unit=unit)
        triton_adam.adam_step(found, grad.float().to(DEVICE), mean, square, clip=clip.to(DEVICE), step=step, lr=LR,
                              betas=BETAS, eps=EPS, unit=unit)
        wanted = grad - (grad * reference.data).sum(dim=1, keepdim=True) * reference.data if unit else grad
        assert float(norm) == pytest.approx(float(wanted.square().sum()), rel=1e-4, abs=1e-6)
        reference.grad = wanted * clip.double()
        optimizer.step()
        if unit:
            reference.data /= reference.data.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.cpu().double(), reference.data, rtol=1e-4, atol=1e-5)
    state = optimizer.state[reference]
    torch.testing.assert_close(mean.cpu().double(), state["exp_avg"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(square.cpu().double(), state["exp_avg_sq"], rtol=1e-4, atol=1e-5)
