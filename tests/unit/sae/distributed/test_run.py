"""The loop, the stream, checkpoints and whole runs of two processes, compared with one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from sae.data.activations import ActivationStream
from sae.data.corpus import prepare
from sae.distributed import ALONE, Group
from sae.distributed.world import World
from sae.errors import Interrupted
from sae.lm.bridge import LanguageModel
from sae.specs.registry import TrainSpec
from sae.training.loop import train
from sae.training.trainer import SAETrainer
from sae.workspace.paths import Workspace
from tests.unit.sae.distributed.worlds import in_processes

SPEC: dict[str, Any] = {
    "n_latents": 256, "k": 4, "tokens": 1000, "batch_tokens": 100, "buffer_tokens": 1024, "context_length": 16,
    "dead_after_tokens": 100, "lr": 0.002, "train_on_bos": False}
KINDS = {"batch_topk": {}, "topk": {"normalize": "dataset"}, "jumprelu": {"architecture": "jumprelu"}}


def text_in(folder: Path) -> Path:
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for number in range(60):
        words = [f"def f{number}(x{i}): return {i * number % 17} + x{i}" for i in range(3 + number % 5)]
        (text / f"{number}.py").write_text("\n".join(words))
    return text


def runs(folder: str) -> dict[int, dict[str, Any]]:
    """Train with float32 products: once in one go, and once stopped by one process and resumed."""
    lm = LanguageModel.load("demo", "cpu")
    return {shards: {kind: run(Path(folder), {"architecture": kind, **SPEC, **more, "shards": shards}, lm, group)
                     for kind, more in KINDS.items() if shards == 1 or kind != "jumprelu"}
            for shards, group in ((1, World(1)), (2, World(2)))}


def run(folder: Path, values: dict[str, Any], lm: LanguageModel, group: Group) -> dict[str, Any]:
    corpus = prepare(str(folder / "text"), "text", "train", lm, 16, Workspace(folder / "data"))
    spec = TrainSpec(**values)
    whole = _trained(spec, lm, corpus, group, None, stop_at=0)
    checkpoint = folder / f"{spec.architecture}{group.world}{group.shards}.pt"
    with pytest.raises(Interrupted):
        _trained(spec, lm, corpus, group, checkpoint, stop_at=6)
    again = _trained(spec, lm, corpus, group, checkpoint, stop_at=0)
    return {"whole": whole, "resumed": again}


def _trained(
    spec: TrainSpec, lm: LanguageModel, corpus: Any, group: Group, checkpoint: Path | None, stop_at: int
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []

    def update(tokens: int) -> None:
        if group.rank == group.world - 1 and tokens == stop_at * spec.batch_tokens:
            raise Interrupted

    stream = ActivationStream(lm, corpus, spec.hook, spec.batch_tokens, spec.buffer_tokens, include_bos=False,
                              n_steps=10, group=group, ahead=group.world > 1)
    # One row, so that the number of steps it averages does not depend on the clock.
    with mock.patch.object(SAETrainer, "__init__", _in_float32), mock.patch("sae.training.loop._LOG_S", 1e9):
        trained = train(spec, stream, lm.device, checkpoint=checkpoint, update=update, group=group,
                        row=lambda **values: rows.append(values))
    kept = ("step", "tokens", "loss", "aux_loss", "fvu", "l0", "dead", "theta", "l0_deciles")
    return {"tensors": trained.trainer.whole_tensors(), "row": {name: rows[-1][name] for name in kept},
            "threshold": trained.trainer.sparsity.threshold}


_begin = SAETrainer.__init__


def _in_float32(self: SAETrainer, *arguments: Any, group: Group = ALONE) -> None:
    _begin(self, *arguments, product_dtype=torch.float32, group=group)


def test_two_processes_are_one(tmp_path: Path, demo_lm: LanguageModel) -> None:
    text_in(tmp_path)
    expected = {kind: run(tmp_path, {"architecture": kind, **SPEC, **more}, demo_lm, ALONE)
                for kind, more in KINDS.items()}
    for results in in_processes(runs, 2, tmp_path, str(tmp_path)):
        for shards, kind in [(1, kind) for kind in KINDS] + [(2, kind) for kind in results[2]]:
            result = results[shards][kind]
            torch.testing.assert_close(result["whole"], expected[kind]["whole"], rtol=1e-5, atol=1e-5)
            for name, tensor in result["whole"]["tensors"].items():
                assert torch.equal(tensor, result["resumed"]["tensors"][name]), "a resumed run is the same bit for bit"
    assert any(expected[kind]["whole"]["row"]["aux_loss"] > 0 for kind in expected)


@pytest.mark.heavy
@pytest.mark.slow
def test_a_run_of_torchrun(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "train-x"
    folder.mkdir(parents=True)
    spec = {**SPEC, "name": "x", "text": str(text_in(tmp_path)), "shards": 2, "eval_tokens": 1000, "ce_tokens": 256,
            "index": False}
    (folder / "spec.json").write_text(json.dumps({"kind": "train", "spec": spec}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sae",
               "run", str(folder), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("training: 1,000 tokens") == 1, "one of them speaks"
    assert json.loads((folder / "status.json").read_text())["state"] == "succeeded"
    assert load_file(tmp_path / "saes" / "demo" / "x" / "sae.safetensors")["W_dec"].shape[0] == SPEC["n_latents"]
    assert not (folder / "ckpt").exists()
