"""Tests of real runs on the embedded model: killed, stopped and resumed, and the files that they leave."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.runs.create import start
from sae.runs.execute import EXIT_CANCELLED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER
from sae.runs.folder import RunFolder
from sae.store.build import Build
from sae.workspace.paths import Workspace
from tests.runs import begin, end_of, wait_for
from tests.unit.sae.index.test_scan import everything

SAE = "demo/2-res-batchtopk-256"


@dataclass
class Run:
    """A run folder in a separate workspace."""

    workspace: Workspace
    folder: RunFolder

    @property
    def checkpoint(self) -> Path:
        return self.folder.checkpoints / "train.pt"

    @property
    def state(self) -> str:
        status = self.folder.status()
        assert status is not None
        return status.state

    @property
    def build(self) -> Path:
        (build_id,) = self.workspace.build_ids(SAE)
        return self.workspace.build(SAE, build_id)

    def weights(self) -> dict[str, Any]:
        return load_file(self.workspace.sae(SAE) / "sae.safetensors")

    def trained_steps(self) -> list[int]:
        return [row["step"] for row in self.folder.progress() if row["phase"] == "training"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(Path(argparse.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    return path


def new_run(root: Path, text: Path, **values: Any) -> Run:
    workspace = Workspace(root)
    spec = {
        "text": str(text), "n_latents": 256, "k": 8, "context_length": 32, "tokens": 24_000, "batch_tokens": 256,
        "buffer_tokens": 4096, "eval_tokens": 1000, "ce_tokens": 256, "index_tokens": 20_000, "top_contexts": 4,
        "device": "cpu", **values}
    return Run(workspace, start("train", spec, workspace))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Run:
    """Execute a run without interruption."""
    run = new_run(tmp_path_factory.mktemp("finished"), text)
    assert end_of(begin(run.folder.path)) == EXIT_OK, run.folder.log.read_text()
    return run


def test_a_run_leaves_an_sae_a_build_and_a_status(finished: Run) -> None:
    status = finished.folder.status()
    assert status is not None
    assert (status.state, status.overall, status.error) == ("succeeded", 1.0, None)
    assert status.result["sae"] == SAE
    assert status.result["build"] == finished.build.stem
    sae = Autoencoder.load(finished.workspace.sae(SAE))
    assert (sae.n_latents, sae.k, sae.layer) == (256, 8, 2)
    assert sae.config["threshold"]["l0_calibrated"] == 8
    assert sae.config["threshold"]["trained_batches"] == [84, 93]
    assert sae.config["metrics"] == status.result["metrics"]
    assert 0 < sae.config["metrics"]["fvu"] < 1
    assert finished.trained_steps()[-1] == 24_000 // 256
    assert not finished.folder.checkpoints.exists()
    assert finished.workspace.sae_ids() == [SAE]
    build = Build.open(finished.build)
    assert build.meta["command"] == f"saescope index --index-tokens 20000 --top-contexts 4 --sae {SAE}"
    build.close()


def test_executed_again_a_finished_run_changes_nothing(finished: Run) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        found = [path for path in finished.workspace.root.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size)
                for path in found if path.name not in ("log.txt", "lock")}

    before = files()
    assert end_of(begin(finished.folder.path)) == EXIT_OK
    assert files() == before


def test_killed_in_training_and_in_the_index_it_ends_with_the_same_sae_and_build(
    finished: Run, tmp_path: Path, text: Path
) -> None:
    run = new_run(tmp_path, text)

    interrupted = begin(run.folder.path)  # SIGTERM in the middle of training
    wait_for(interrupted, run.checkpoint.exists)
    assert interrupted.pid is not None
    os.kill(interrupted.pid, signal.SIGTERM)
    assert end_of(interrupted) == EXIT_INTERRUPTED, run.folder.log.read_text()
    assert run.state == "interrupted"
    assert run.workspace.sae_ids() == []

    killed = begin(run.folder.path)  # killed, later in training
    before = run.checkpoint.stat().st_mtime_ns
    wait_for(killed, lambda: run.checkpoint.stat().st_mtime_ns > before)
    killed.kill()
    assert end_of(killed) == -signal.SIGKILL
    assert run.state == "running"  # SIGKILL left it no time to write another state
    assert run.workspace.sae_ids() == []

    killed = begin(run.folder.path)  # killed between two shards of the index
    wait_for(killed, (run.folder.checkpoints / "index.pt").exists)
    killed.kill()
    assert end_of(killed) == -signal.SIGKILL
    assert run.workspace.sae_ids() == [SAE]
    assert run.workspace.build_ids(SAE) == []
    weights_written = (run.workspace.sae(SAE) / "sae.safetensors").stat().st_mtime_ns

    done = subprocess.run([sys.executable, "-m", "sae", "run", str(run.folder.path)], capture_output=True, text=True)
    assert done.returncode == EXIT_OK, done.stderr
    assert run.state == "succeeded"
    assert (run.workspace.sae(SAE) / "sae.safetensors").stat().st_mtime_ns == weights_written  # not trained again

    assert sum(line.startswith("training: ") for line in run.folder.log.read_text().splitlines()) == 3
    for name, tensor in finished.weights().items():
        assert tensor.equal(run.weights()[name]), name
    same = "sae_id", "theta", "tokens", "hist_edges", "median_resid_norm"
    mine, theirs = everything(run.build), everything(finished.build)
    meta = [{key: value for key, value in tables.pop("meta") if key in same} for tables in (mine, theirs)]
    assert meta[0] == meta[1]
    assert len(meta[0]) == len(same)
    assert mine == theirs


def test_the_cancel_file_stops_it(tmp_path: Path, text: Path) -> None:
    run = new_run(tmp_path, text, tokens=400_000)
    process = begin(run.folder.path)
    wait_for(process, run.checkpoint.exists)
    assert end_of(begin(run.folder.path)) == EXIT_USER  # two processes cannot execute one run
    assert "being executed by another process" in run.folder.log.read_text()
    assert process.is_alive()
    run.folder.request_cancel()
    assert end_of(process) == EXIT_CANCELLED
    assert run.state == "cancelled"
    assert run.workspace.sae_ids() == []
    again = begin(run.folder.path)  # a cancelled run that is started again resumes
    wait_for(again, lambda: run.state == "running")
    run.folder.request_cancel()
    assert end_of(again) == EXIT_CANCELLED


def test_too_little_text_fails_before_the_training(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("def f(x):\n    return x\n" * 30)
    run = new_run(tmp_path / "w", text)
    assert end_of(begin(run.folder.path)) == EXIT_USER
    status = run.folder.status()
    assert status is not None
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.startswith("text: ")
    assert not run.trained_steps()
    assert "Traceback" not in run.folder.log.read_text()


def test_a_run_folder_of_any_name(tmp_path: Path, text: Path) -> None:
    """Execute a run folder outside the workspace; its SAE goes to the workspace of the environment."""
    run = new_run(tmp_path / "w", text, tokens=1024, index_tokens=1000, architecture="topk", name="mine", reuse=3)
    folder = RunFolder(tmp_path / "elsewhere")
    folder.path.mkdir()
    run.folder.path.joinpath("spec.json").rename(folder.path / "spec.json")
    workspace = Workspace(tmp_path / "home")
    assert end_of(begin(folder.path, home=workspace.root)) == EXIT_OK, folder.log.read_text()
    assert workspace.sae_ids() == ["demo/mine"]
    assert workspace.build_ids("demo/mine") == ["elsewhere"]
    sae = Autoencoder.load(workspace.sae("demo/mine"))
    assert sae.config["metrics"]["l0"] <= 8
    assert sae.config["threshold"] is None
    assert run.workspace.sae_ids() == []


def test_a_folder_with_truncated_files_ends_in_one_line(tmp_path: Path, text: Path) -> None:
    run = new_run(tmp_path, text)
    (run.folder.path / "status.json").write_text('{"state": "runn')
    (run.folder.path / "spec.json").write_text('{"kind": "train", "sp')
    assert end_of(begin(run.folder.path)) == EXIT_USER
    assert "Traceback" not in run.folder.log.read_text()


def test_evaluating_leaves_the_weights_alone(finished: Run, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    shutil.copytree(finished.workspace.root / "saes", workspace.root / "saes")
    weights, config = (workspace.sae(SAE) / name for name in ("sae.safetensors", "sae.json"))
    before, earlier = weights.stat(), json.loads(config.read_text())
    folder = start("evaluate", {"sae": SAE, "eval_tokens": 1000, "ce_tokens": 1000}, workspace)
    assert end_of(begin(folder.path)) == EXIT_OK, folder.log.read_text()
    after = weights.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    now = json.loads(config.read_text())
    assert now.pop("metrics") != earlier.pop("metrics")
    assert now == earlier


# ---- the SAEs that a resumed run recognises as its own


def test_an_sae_of_another_run_is_not_taken_for_ones_own(finished: Run, tmp_path: Path, text: Path) -> None:
    """Resume a run whose chosen name another run has used in the meantime."""
    run = new_run(tmp_path, text, tokens=1024, index=False)
    (run.folder.path / "sae_id.txt").write_text(SAE)  # the run wrote this when it started
    finished_sae = finished.workspace.sae(SAE)
    mine = run.workspace.sae(SAE)
    mine.mkdir(parents=True)
    for name in ("sae.safetensors", "sae.json"):
        (mine / name).write_bytes((finished_sae / name).read_bytes())
    assert end_of(begin(run.folder.path)) == EXIT_OK, run.folder.log.read_text()
    assert run.workspace.sae_ids() == [SAE, f"{SAE}-2"]
    assert (mine / "sae.safetensors").read_bytes() == (finished_sae / "sae.safetensors").read_bytes()
    status = run.folder.status()
    assert status is not None
    assert status.result["sae"] == f"{SAE}-2"
    assert json.loads((run.workspace.sae(f"{SAE}-2") / "sae.json").read_text())["run"] == run.folder.id


# ---- without a model


def test_names_that_are_taken_or_impossible_are_refused(tmp_path: Path, text: Path) -> None:
    for values, field in (({"layer": 9}, "layer"), ({"context_length": 500}, "context_length"), ({"k": 999}, "k"),
                          ({"model": "./nowhere"}, "model"), ({"batch_tokens": 5000}, "buffer_tokens")):
        with pytest.raises(UserError) as caught:
            new_run(tmp_path, text, **values)
        assert caught.value.field == field
    assert not (tmp_path / "runs").exists()
