"""Tests of SAE names: no two runs get the same one."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sae.errors import Cancelled, UserError
from sae.runs import import_sae
from sae.runs.create import start
from sae.runs.execute import execute
from sae.runs.folder import RunFolder, Status
from sae.runs.names import claim_names, default_name, owner, release
from sae.specs.registry import SweepSpec, TrainSpec
from sae.workspace.files import lock, write_json
from sae.workspace.paths import Workspace
from tests.runs import begin, end_of, wait_for


def run_of(workspace: Workspace, name: str) -> RunFolder:
    folder = RunFolder(workspace.run(name))
    folder.create("train", {})
    return folder


def finish(workspace: Workspace, sae_id: str, run: str) -> None:
    write_json(workspace.sae(sae_id) / "sae.json", {"run": run})
    release(sae_id, workspace)


@pytest.mark.parametrize(("values", "name"), [
    ({}, "2-res-batchtopk-4k"),
    ({"layer": 0, "architecture": "topk", "n_latents": 1000}, "0-res-topk-1000"),
    ({"site": "hook_mlp_out"}, "2-mlp-batchtopk-4k"),
    ({"site": "ln2.hook_normalized", "out_site": "hook_mlp_out"}, "2-mlp_norm-mlp-batchtopk-4k"),
])
def test_names_say_layer_site_kind_and_size(values: dict[str, object], name: str) -> None:
    assert default_name(TrainSpec(**values)) == name  # type: ignore[arg-type]


def test_the_saes_of_a_sweep_get_different_names(workspace: Workspace) -> None:
    spec = SweepSpec(architecture="topk,relu", n_latents="1024,2048", k="4,8", l1_coefficient="0.5")  # type: ignore[arg-type]
    ids = claim_names(spec, "demo", run_of(workspace, "sweep-1"), workspace)
    assert ids == [f"demo/2-res-{kind}" for kind in (
        "topk-1k-k4", "topk-1k-k8", "topk-2k-k4", "topk-2k-k8", "relu-1k-l1-0.5", "relu-2k-l1-0.5")]
    named = claim_names(spec.model_copy(update={"name": "mine"}), "demo", run_of(workspace, "sweep-2"), workspace)
    assert named[0] == "demo/mine-topk-1k-k4"
    again = claim_names(spec, "demo", run_of(workspace, "sweep-3"), workspace)
    assert again == [f"{sae_id}-2" for sae_id in ids]


def test_runs_that_choose_at_one_moment_get_different_names(workspace: Workspace) -> None:
    folders = [run_of(workspace, f"train-{i}") for i in range(12)]
    with ThreadPoolExecutor(12) as pool:  # a file lock excludes threads as it excludes processes
        chosen = list(pool.map(lambda folder: claim_names(TrainSpec(), "demo", folder, workspace)[0], folders))
    assert sorted(chosen) == sorted(
        ["demo/2-res-batchtopk-4k", *(f"demo/2-res-batchtopk-4k-{n}" for n in range(2, 13))])
    assert [claim_names(TrainSpec(), "demo", folder, workspace)[0] for folder in folders] == chosen  # resumed


def test_a_requested_name_is_given_or_refused(workspace: Workspace) -> None:
    spec, first, second = TrainSpec(name="mine"), run_of(workspace, "train-1"), run_of(workspace, "train-2")
    assert claim_names(spec, "demo", first, workspace) == ["demo/mine"]
    with pytest.raises(UserError, match="demo/mine already exists") as refused:
        claim_names(spec, "demo", second, workspace)
    assert refused.value.field == "name"
    finish(workspace, "demo/mine", first.id)
    assert claim_names(spec, "demo", first, workspace) == ["demo/mine"]  # its own
    with pytest.raises(UserError):
        claim_names(spec, "demo", second, workspace)


def test_a_claim_expires_when_its_run_ends_or_disappears(workspace: Workspace, tmp_path: Path) -> None:
    first, second = run_of(workspace, "train-1"), run_of(workspace, "train-2")
    spec = TrainSpec(name="mine")
    claim_names(spec, "demo", first, workspace)
    first.write_status(Status(state="running"))
    with pytest.raises(UserError):
        claim_names(spec, "demo", second, workspace)
    first.write_status(Status(state="cancelled"))
    assert claim_names(spec, "demo", second, workspace) == ["demo/mine"]
    first.write_status(Status(state="interrupted"))  # resumed after the second run got the name
    with pytest.raises(UserError):
        claim_names(spec, "demo", first, workspace)
    (second.path / "spec.json").unlink()
    assert claim_names(spec, "demo", first, workspace) == ["demo/mine"]
    elsewhere = RunFolder(tmp_path / "anywhere")
    elsewhere.create("train", {})
    assert claim_names(TrainSpec(), "demo", elsewhere, workspace) == ["demo/2-res-batchtopk-4k"]
    assert claim_names(TrainSpec(), "demo", second, workspace) == ["demo/2-res-batchtopk-4k-2"]


def test_an_sae_from_elsewhere_keeps_its_name(workspace: Workspace) -> None:
    write_json(workspace.sae("demo/2-res-batchtopk-4k") / "sae.json", {"id": "demo/2-res-batchtopk-4k"})
    assert claim_names(TrainSpec(), "demo", run_of(workspace, "train-1"), workspace) == ["demo/2-res-batchtopk-4k-2"]
    assert workspace.sae_ids() == ["demo/2-res-batchtopk-4k"]  # a claim is no SAE


def test_a_killed_run_frees_its_name_unless_it_is_resumed_at_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, spec = run_of(workspace, "train-1"), run_of(workspace, "train-2"), TrainSpec(name="mine")
    claim_names(spec, "demo", first, workspace)
    first.write_status(Status(state="running"))  # then the process is killed
    with pytest.raises(UserError, match="a run is making it"):
        claim_names(spec, "demo", second, workspace)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    held = lock(first.path / "lock")
    with held, pytest.raises(UserError):  # a process that is busy for long without a heartbeat
        claim_names(spec, "demo", second, workspace)
    assert owner("demo/mine", workspace) is None
    assert claim_names(spec, "demo", second, workspace) == ["demo/mine"]


def test_sigkill_frees_the_name_of_a_run(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a line of the text\n" * 20_000)
    folder = start("train", {"name": "mine", "text": str(text), "tokens": 10_000_000, "device": "cpu"}, workspace)
    process = begin(folder.path)
    wait_for(process, lambda: (workspace.sae("demo/mine") / "claim.json").exists())
    other = run_of(workspace, "train-2")
    with pytest.raises(UserError, match="a run is making it"):
        claim_names(TrainSpec(name="mine"), "demo", other, workspace)
    process.kill()
    assert end_of(process) == -signal.SIGKILL
    monkeypatch.setattr("sae.runs.names._KILLED_S", 0.0)  # in which a supervisor would resume it
    assert owner("demo/mine", workspace) is None
    assert claim_names(TrainSpec(name="mine"), "demo", other, workspace) == ["demo/mine"]


@pytest.mark.parametrize("error", [RuntimeError("index out of range"), UserError("text: too short", "text"),
                                   Cancelled("stopped")])
def test_a_run_that_fails_removes_its_claim(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*arguments: Any, **settings: Any) -> None:
        assert owner("demo/mine", workspace) == "train-1"
        raise error

    monkeypatch.setattr("sae.runs.train.open_model_and_text", fails)
    folder = RunFolder(workspace.run("train-1"))
    folder.create("train", TrainSpec(name="mine").model_dump(mode="json"))
    assert execute(folder, workspace) != 0
    assert not workspace.sae("demo/mine").exists()
    assert import_sae._taken("demo/mine", workspace) is False


def test_an_import_may_take_a_name_whose_run_has_ended(workspace: Workspace) -> None:
    first = run_of(workspace, "train-1")
    claim_names(TrainSpec(name="mine"), "demo", first, workspace)
    first.write_status(Status(state="running"))
    assert import_sae._taken("demo/mine", workspace)
    first.write_status(Status(state="failed"))
    assert not import_sae._taken("demo/mine", workspace)
