"""Whole runs, the model worker and the demo model's training on the pretended device, against the CPU."""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.worker import protocol
from app.worker.engine import Engine
from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import ActivationStream
from sae.data.corpus import prepare
from sae.evaluation.recovery import progressive_recovery, refine
from sae.lm.bridge import LanguageModel
from sae.runs.create import start
from sae.runs.execute import EXIT_OK, execute
from sae.steering.measurement_requests import InspectRequest, ReadoutRequest
from sae.steering.request import Intervention, Sampling, SteerRequest
from sae.store.build import Build
from sae.training.loop import StoredActivations, train
from sae.workspace.paths import Workspace
from tests.pretended import PretendedDevice, pretend
from tests.unit.sae.formats.saes import saelens
from tests.unit.sae.pretended.steps import trainer_of
from tests.unit.sae.training.test_loop import Stopped, mixtures, spec_of, stop_at

COMMON: dict[str, Any] = {
    "n_latents": 64, "k": 4, "context_length": 32, "tokens": 2048, "batch_tokens": 256, "buffer_tokens": 1024,
    "eval_tokens": 1000, "ce_tokens": 256, "index_tokens": 1000, "top_contexts": 2}
TRAININGS: dict[str, dict[str, Any]] = {
    "a": {}, "b": {"architecture": "jumprelu", "buffer_dtype": "float32", "index": False},
    "c": {"architecture": "gated", "resample_every": 2, "dead_after_tokens": 300, "index": False,
          "site": "ln2.hook_normalized", "normalize": "layer_norm", "buffer_dtype": "float16"},
    "d": {"architecture": "matryoshka", "index": False, "site": "attn.hook_z"}}


@contextlib.contextmanager
def on(kind: str, triton: bool = False) -> Iterator[PretendedDevice | None]:
    with pretend(kind, triton=triton) if kind != "cpu" else contextlib.nullcontext() as device:
        yield device


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text(Path(argparse.__file__).read_text(encoding="utf-8")[:30_000], encoding="utf-8")
    return path


def run(kind: str, spec: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    folder = start(kind, spec, workspace)
    assert execute(folder, workspace) == EXIT_OK, folder.status()
    status = folder.status()
    assert status is not None
    return status.result


def everything(root: Path, text: Path, device: str) -> Workspace:
    """Make every kind of run on one device."""
    workspace = Workspace(root / device.partition(":")[0])
    with on(device.partition(":")[0]):
        for name, changes in TRAININGS.items():
            run("train", {"name": name, "text": str(text), **COMMON, **changes, "device": device}, workspace)
        run("index", {"sae": "demo/b", "index_tokens": 1000, "device": "auto"}, workspace)
        run("evaluate", {"sae": "demo/a", "eval_tokens": 1000, "ce_tokens": 256, "device": device}, workspace)
        run("compare", {"a": "demo/a", "b": "demo/b", "compare_tokens": 1000, "device": device}, workspace)
        source = saelens(root / device.partition(":")[0] / "foreign")
        run("import", {"source": str(source), "model": "demo", "text": str(text), "index": False, "device": device},
            workspace)
    return workspace


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:  # the language model is read by its bridge, as on a device
        patch.setattr("sae.data.activations.reader", lambda lm, hooks, autocast: lambda tokens_PS: lm.activations_at(
            tokens_PS, hooks, autocast=autocast))
        return everything(tmp_path_factory.mktemp("runs"), text, "cpu")


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_every_kind_of_run_is_the_cpus(device: str, tmp_path: Path, text: Path, on_the_cpu: Workspace) -> None:
    found = everything(tmp_path, text, device)
    assert found.sae_ids() == on_the_cpu.sae_ids()
    for sae_id in found.sae_ids():
        mine, other = (json.loads((home.sae(sae_id) / "sae.json").read_text()) for home in (found, on_the_cpu))
        assert mine["metrics"] == pytest.approx(other["metrics"], rel=0.02, abs=0.02), sae_id
    for name in ("a", "b"):
        builds = []
        for home in (found, on_the_cpu):
            (build_id,) = home.build_ids(f"demo/{name}")
            with contextlib.closing(Build.open(home.build(f"demo/{name}", build_id))) as build:
                builds.append(build.meta)
        assert builds[0]["l0"] == pytest.approx(builds[1]["l0"], rel=0.02) if "l0" in builds[0] else builds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_prefetching_thread_fills_on_its_own_stream(dtype: torch.dtype, text: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def batches(device: str) -> list[Tensor]:
        lm = LanguageModel.load("demo", device)
        corpus = prepare(str(text), "text", "train", lm, 32, workspace)
        stream = ActivationStream(lm, corpus, "blocks.1.hook_resid_post", 128, 256, reuse=2, n_steps=8, dtype=dtype)
        return [x_BW.cpu() for x_BW in stream.batches()]

    expected = batches("cpu")
    with pretend("cuda") as device:
        found = batches("cuda:1")
        (side,) = device.streams
        assert side.events == ["wait_event", "synchronize"] * (len(side.events) // 2) != []
        assert str(side.device) == "cuda:1"
    assert len(found) == len(expected) == 8
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("rule", ["batch_topk", "jumprelu"])
def test_a_resumed_run_ends_with_the_same_weights(rule: str, tmp_path: Path) -> None:
    x_ND, _ = mixtures(500, 30, 8)
    spec, device = spec_of(architecture=rule, n_latents=16, dead_after_tokens=100), torch.device("cuda")

    def source() -> StoredActivations:
        return StoredActivations(x_ND, 64, seed=2)

    with pretend("cuda"):
        whole = train(spec, source(), device)
        with pytest.raises(Stopped):
            train(spec, source(), device, checkpoint=tmp_path / "c.pt", update=stop_at(7))
        resumed = train(spec, source(), device, checkpoint=tmp_path / "c.pt")
        for name, tensor in whole.trainer.tensors().items():
            assert torch.equal(tensor.cpu(), resumed.trainer.tensors()[name].cpu()), name
        assert resumed.trainer.sparsity.threshold == whole.trainer.sparsity.threshold


@pytest.mark.parametrize("architecture", ["batch_topk", "topk", "relu"])
@pytest.mark.parametrize("triton", [True, False], ids=["kernels", "torch"])
def test_inference_and_recovery(architecture: str, triton: bool) -> None:
    trainer = trainer_of(architecture, "cpu", n_latents=16, width=6)
    config = {"architecture": architecture, "normalize": "layer_norm", "k": 3}
    x_ND = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))

    def measured(device: str) -> list[Any]:
        tensors = {name: tensor.to(device) for name, tensor in trainer.tensors().items()}
        if architecture == "batch_topk":
            tensors["threshold"] = torch.tensor([0.4])
        sae, x = Autoencoder(tensors, config), x_ND.to(device)
        codes, misses = sae.codes_and_misses(x, 0.2)
        some = torch.tensor([0, 5], device=device)
        refined = refine(sae, x, iterations=3)
        order_N = torch.argsort(codes.token_N * sae.n_latents + codes.latent_N)
        return [codes.token_N, codes.latent_N[order_N], codes.value_N[order_N], misses.latent_N, sae.reconstruct(x),
                sae.activation_of(x, some),
                *progressive_recovery(sae, x, [1, 2]).values(), refined.bias, refined.fvu_after]

    expected = measured("cpu")
    with pretend("cuda", triton=triton):
        for one, other in zip(measured("cuda"), expected, strict=True):
            torch.testing.assert_close(one.cpu() if isinstance(one, Tensor) else one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_model_worker_steers_inspects_and_reads_out(kind: str, tmp_path: Path, tiny_sae: Any) -> None:
    sae_id = "demo/2-tiny"
    tiny_sae("batch_topk", "layer_norm", folder=tmp_path)
    request = SteerRequest(model="demo", prompt="def main(", interventions=(
        Intervention(sae=sae_id, layer=2, latent=9, strength=2.0, max_act=8.0),), sampling=Sampling(length=4),
        columns=("baseline", "steered"))
    folders = {sae_id: str(tmp_path)}
    messages = [
        protocol.Generate(request=request, folders=folders),
        protocol.Inspect(request=InspectRequest(model="demo", saes=(sae_id,), texts=("import os",)), folders=folders),
        protocol.Readout(request=ReadoutRequest(request=request, positions=(1,)), folders=folders)]

    def answers(device: str) -> list[Any]:
        engine = Engine(threads=1, memory_bytes=1 << 30, device=device)
        out = []
        for message in messages:
            events: list[Any] = []
            for _ in engine.begin(message, events.append, threading.Event()):
                engine.step()
            out.append(events[-1].model_dump(exclude={"seconds"}))
        return out

    expected = answers("cpu")
    with pretend(kind):
        found = answers("auto")
    assert json.loads(json.dumps(found)) == approximately(expected)


def approximately(value: Any) -> Any:
    """Return the value with its numbers to be compared with a tolerance."""
    if isinstance(value, dict):
        return {name: approximately(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [approximately(part) for part in value]
    return pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, float) else value
