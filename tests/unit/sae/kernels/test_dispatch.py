"""With the Triton kernels in torch's place, a training step is the same step."""

from __future__ import annotations

import pytest
import torch

from sae.kernels import codes, dispatch, select
from sae.specs import TrainSpec
from sae.start import Start
from sae.trainee import Trainee
from tests.unit.sae.kernels.interpreter import DEVICE

B, L, D = 12, 40, 10


def make(architecture: str, device: str) -> Trainee:
    spec = TrainSpec(architecture=architecture, n_latents=L, k=3, k_aux=4, tokens=1000, batch_tokens=16,
                     dead_after_tokens=B, clip_norm=0.5)
    start = Start(torch.linspace(-1, 1, D), variance=2.5, input_scale=1.2)
    return Trainee(spec, start, torch.device(device), torch.float32)


@pytest.mark.parametrize("architecture", ["batch_topk", "topk", "matryoshka", "relu", "gated", "jumprelu"])
def test_the_gradients_are_the_same(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, found = make(architecture, "cpu"), make(architecture, DEVICE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        y_BD = 1.5 * torch.randn(B, D, generator=generator)
        found.load_state(reference.state())
        expected = reference.step(y_BD, 0.01)
        with monkeypatch.context() as patch:
            if DEVICE == "cpu":  # under the interpreter the kernels work on the CPU's tensors
                for module in (select, codes):
                    patch.setattr(module, "on_gpu", lambda tensor: True)
            result = found.step(y_BD.to(DEVICE), 0.01)
        torch.testing.assert_close(result.loss.cpu(), expected.loss)
        assert torch.equal(found.silent_tokens_L.cpu(), reference.silent_tokens_L)
        for one, other in zip(found.parameters(), reference.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-4, atol=1e-6)


def test_on_the_cpu_torch_works() -> None:
    assert not dispatch.on_gpu(torch.zeros(1))


def test_without_triton_or_when_told_torch_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_TRITON", "0")
    dispatch._triton.cache_clear()
    assert not dispatch._triton()
    monkeypatch.delenv("SAESCOPE_TRITON")
    dispatch._triton.cache_clear()
    assert dispatch._triton()  # this file needs Triton
    dispatch._triton.cache_clear()
