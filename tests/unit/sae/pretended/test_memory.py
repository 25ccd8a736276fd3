"""The formula of a step's memory against the bytes that a pretended device counts, and what follows from it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.data.activations import ActivationStream
from sae.data.corpus import prepare
from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.specs.registry import TrainSpec
from sae.training.loop import StoredActivations, train
from sae.training.memory import step_bytes
from sae.training.trainer import SAETrainer
from sae.workspace.paths import Workspace
from tests.pretended import pretend
from tests.unit.sae.training.test_loop import mixtures, spec_of


def peak(spec: TrainSpec, width: int, triton: bool) -> int:
    """Return the most live bytes in the second step, of which the input's are not the step's."""
    with pretend("cuda", triton=triton) as device, device.counting() as counted:
        start = DataStatistics(torch.zeros(width), variance=1.0, input_scale=1.0)
        trainer = SAETrainer(spec, start, torch.device("cuda"))
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            gc.collect()  # the interpreter of Triton leaves cycles behind
            counted.peak = counted.live
            trainer.step(torch.randn(spec.batch_tokens, width, generator=generator).to("cuda"), 0.01)
    return counted.peak


def spec(architecture: str, n_latents: int, batch_tokens: int, **changes: Any) -> TrainSpec:
    return TrainSpec(architecture=architecture, n_latents=n_latents, k=3, tokens=10**6, batch_tokens=batch_tokens,
                     dead_after_tokens=10**5, **changes)


@pytest.mark.parametrize("architecture", ["batch_topk", "topk", "matryoshka", "relu", "gated", "jumprelu"])
def test_the_formula_is_a_little_above_the_peak(architecture: str) -> None:
    one = spec(architecture, 512, 64)
    assert 1.0 <= step_bytes(one, 256, kernels=False, dead_share=0) / peak(one, 256, triton=False) <= 1.25


def test_the_formula_with_the_kernels() -> None:
    pytest.importorskip("triton", reason="Triton is not installed (pip install saescope[triton])")
    one = spec("batch_topk", 64, 16)
    assert 1.0 <= step_bytes(one, 64, dead_share=0) / peak(one, 64, triton=True) <= 1.25


def test_a_run_that_does_not_fit_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, _ = mixtures(200, 30, 16)
    with pretend("cuda"):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20_000, 1 << 40))
        with pytest.raises(UserError, match=r"n_latents: training needs about .* GB on the device") as caught:
            train(spec_of(), StoredActivations(x_ND, 64), torch.device("cuda"))
    assert caught.value.field == "n_latents"


def test_a_step_that_runs_out_of_memory_names_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, _ = mixtures(200, 30, 16)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SAETrainer, "step", full)
    with pretend("cuda"), pytest.raises(UserError, match="batch_tokens: the memory of cuda is too small"):
        train(spec_of(), StoredActivations(x_ND, 64), torch.device("cuda"))


def test_the_language_models_passes_are_halved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "t.txt"
    text.write_text("def f(x):\n    return x\n" * 400, encoding="utf-8")
    lm = LanguageModel.load("demo", "cpu")
    corpus = prepare(str(text), "text", "train", lm, 32, Workspace(tmp_path))

    def stream() -> ActivationStream:
        return ActivationStream(lm, corpus, "blocks.1.hook_resid_post", 256, 512, n_steps=4, dtype=torch.float32)

    expected = list(stream().batches())
    read, most = LanguageModel.activations_at, 128

    def small(self: LanguageModel, tokens_PS: torch.Tensor, *args: Any, **options: Any) -> Any:
        if tokens_PS.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, tokens_PS, *args, **options)

    monkeypatch.setattr(LanguageModel, "activations_at", small)
    monkeypatch.setattr("sae.data.activations.reader", lambda lm, hooks, autocast: lambda tokens_PS: lm.activations_at(
        tokens_PS, hooks))  # as on a GPU
    for one, other in zip(stream().batches(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert capsys.readouterr().out.count("now reads 128 tokens at once") == 1
    most = 64
    with pytest.raises(UserError, match="passes of 128 tokens; lower buffer_tokens"):
        next(stream().batches())
