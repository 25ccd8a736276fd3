"""The curves of a run in other programs: every value once, under names that can be found again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from sae.cli.main import app
from sae.errors import UserError
from sae.runs.curve_export import export, make_writer, points
from sae.runs.folder import RunFolder, Status

ROWS: list[dict[str, Any]] = [
    {"time": 1.0, "phase": "training", "step": 3, "tokens": 3072, "fvu": 0.5, "l0_deciles": [1, 2], "theta": None},
    {"time": 2.0, "phase": "training", "step": 8, "tokens": 8192, "fvu": 0.25},
    {"time": 3.0, "phase": "evaluation", "fvu": 0.3, "tokens": 100},
]


class Taken:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.points: list[Any] = []
        self.closed = False

    def add(self, point: Any) -> None:
        self.points.append(point)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "train-1")
    folder.path.mkdir(parents=True)
    folder.create("train", {"k": 3})
    for row in ROWS:
        folder.append_progress(row)
    return folder


def test_rows_become_points_of_their_phase() -> None:
    found = list(points(ROWS))
    assert [(p.step, p.values) for p in found] == [
        (3, {"training/fvu": 0.5, "training/tokens": 3072.0}), (8, {"training/fvu": 0.25, "training/tokens": 8192.0}),
        (9, {"evaluation/fvu": 0.3})]
    assert [p.step for p in points([{**ROWS[0], "member": 1}, {**ROWS[2], "member": 1}, ROWS[2]])] == [3, 4, 1]


def test_following_a_run_until_it_ends_writes_each_point_once(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_status(Status("running"))
    taken = Taken()

    def later(seconds: float) -> None:
        assert seconds == 1.0
        folder.append_progress({**ROWS[1], "step": 9, "fvu": 0.2})
        folder.write_status(Status("succeeded"))

    monkeypatch.setattr("sae.runs.curve_export.time.sleep", later)
    assert export(folder, taken, follow=True) == len(taken.points) == 4
    assert taken.closed
    assert taken.points[-1].values["training/fvu"] == 0.2
    assert export(folder, taken) == 4, "an ended run needs no waiting"


def test_event_files_hold_the_curves(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["curves", str(folder.path), "--out", "logs"])
    assert (result.exit_code, result.output) == (0, "3 points of train-1 are in logs.\n")
    read = EventAccumulator(str(tmp_path / "logs" / "train-1"))
    read.Reload()
    assert read.Tags()["scalars"] == ["training/fvu", "training/tokens", "evaluation/fvu"]
    assert [(e.step, e.wall_time, e.value) for e in read.Scalars("training/fvu")] == [(3, 1.0, 0.5), (8, 2.0, 0.25)]
    with pytest.raises(UserError, match="already has event files"):
        make_writer("tensorboard", folder, tmp_path / "logs")


def test_members_of_a_sweep_are_runs_of_their_own(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[str, int, dict[str, float]]] = []

    def init(**settings: Any) -> Any:
        started.append(settings)
        return SimpleNamespace(
            log=lambda values, step: logged.append((settings["id"], step, values)), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    folder.write_status(Status("succeeded", result={"members": [{"name": "one"}]}))
    (folder.path / "progress.jsonl").unlink()
    for member in (0, 1):
        folder.append_progress({**ROWS[0], "member": member})
    assert export(folder, make_writer("wandb", folder, tmp_path / "w", "saes")) == 2
    assert [(s["id"], s["name"], s["group"], s["project"], s["config"]) for s in started] == [
        ("train-1-one", "train-1/one", "train-1", "saes", {"k": 3}),
        ("train-1-member-1", "train-1/member-1", "train-1", "saes", {"k": 3})]
    assert [(name, step) for name, step, _ in logged] == [("train-1-one", 3), ("train-1-member-1", 3)]


def test_what_cannot_be_exported(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'csv' is not one of tensorboard, wandb"):
        make_writer("csv", folder, tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"saescope\[wandb\]"):
        make_writer("wandb", folder, tmp_path)
    result = CliRunner().invoke(app, ["curves", "nowhere"], env={"SAESCOPE_HOME": str(tmp_path)})
    assert isinstance(result.exception, UserError)
    assert "there is no run nowhere" in str(result.exception)
