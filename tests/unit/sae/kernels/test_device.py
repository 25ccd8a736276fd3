"""A training step with the Triton kernels is the same step as with torch's operations."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.kernels import codes, select
from sae.kernels import device as dispatch
from sae.specs.registry import TrainSpec
from sae.training import optimizer
from sae.training.trainer import SAETrainer
from tests.unit.sae.kernels.interpreter import DEVICE

B, L, D = 8, 24, 10


def make(architecture: str, device: str) -> SAETrainer:
    spec = TrainSpec(architecture=architecture, n_latents=L, k=3, k_aux=4, tokens=1000, batch_tokens=16,
                     dead_after_tokens=B, clip_norm=0.5)
    start = DataStatistics(torch.linspace(-1, 1, D), variance=2.5, input_scale=1.2)
    return SAETrainer(spec, start, torch.device(device), torch.float32)


@pytest.mark.parametrize("architecture", ["batch_topk", "topk", "gated", "jumprelu"])
def test_the_gradients_are_the_same(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, found = make(architecture, "cpu"), make(architecture, DEVICE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        y_BD = 1.5 * torch.randn(B, D, generator=generator)
        found.load_state(reference.state())
        expected = reference.gradients(y_BD)
        with monkeypatch.context() as patch:
            on_kernels(patch, select, codes)
            result = found.gradients(y_BD.to(DEVICE))
        torch.testing.assert_close(result.loss.cpu(), expected.loss)
        for one, other in zip(found.parameters(), reference.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-4, atol=1e-6)
        reference.step(y_BD, 0.01)


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu"])
def test_the_update_is_the_same_and_so_is_adams_state(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, found = make(architecture, "cpu"), make(architecture, DEVICE)
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        for one, other in zip(reference.parameters(), found.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator) * (0.01 if number == 2 else 1.0)  # not clipped
            other.grad = one.grad.to(DEVICE, copy=True)
        reference.optimizer.step(0.01, number + 1)
        with monkeypatch.context() as patch:
            on_kernels(patch, optimizer)
            found.optimizer.step(0.01, number + 1)
        reference.steps_done = found.steps_done = number + 1
        if number == 1:  # checkpoints are the same in both, and each resumes from the other's
            reference, found = SAETrainer.resumed(found.spec, reference.state(), torch.device("cpu")), \
                SAETrainer.resumed(found.spec, found.state(), torch.device(DEVICE))
    for one, other in zip(reference.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(other.data.cpu(), one.data, rtol=1e-5, atol=1e-6)
        found.optimizer.state()  # fills in the number of steps
        for name, kept in reference.optimizer.adam.state[one].items():
            torch.testing.assert_close(found.optimizer.adam.state[other][name].cpu(), kept.cpu(), rtol=1e-5, atol=1e-6)


def on_kernels(patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Use the kernels on the CPU's tensors, as the interpreter can."""
    for module in modules if DEVICE == "cpu" else ():
        patch.setattr(module, "on_gpu", lambda tensor: True)


def test_on_the_cpu_torch_works() -> None:
    assert not dispatch.on_gpu(torch.zeros(1))


def test_torch_works_without_triton_or_with_triton_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_TRITON", "0")
    dispatch._triton.cache_clear()
    assert not dispatch._triton()
    monkeypatch.delenv("SAESCOPE_TRITON")
    dispatch._triton.cache_clear()
    assert dispatch._triton()  # this file needs Triton
    dispatch._triton.cache_clear()
