"""Tests of the run folder: its status, and curves that look as if the run had never been killed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.runs.folder import ProgressFile, RunFolder, Status


def test_a_status_is_read_as_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.status() is None
    folder.write_status(Status(state="running", phase="training", done=3, total=9, result={"sae": "m/s"}))
    status = folder.status()
    assert status is not None
    assert (status.state, status.phase, status.done, status.result) == ("running", "training", 3, {"sae": "m/s"})
    assert status.heartbeat > 0


def test_a_status_of_a_later_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "mood": "good"}))
    status = RunFolder(tmp_path).status()
    assert status is not None
    assert status.state == "running"


def test_a_run_that_exists_keeps_its_spec(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create("train", {"k": 1})
    folder.create("train", {"k": 2})
    assert folder.spec() == ("train", {"k": 1})


@given(st.lists(st.integers(1, 30), max_size=6))
def test_steps_done_twice_after_a_kill_are_listed_once(restarts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        step = 0
        for back in restarts:
            for _ in range(7):
                step += 1
                folder.append_progress({"phase": "training", "step": step})
            step = max(0, step - back)  # killed, and resumed from an older checkpoint
        folder.append_progress({"phase": "training", "step": step + 1})
        steps = [row["step"] for row in folder.progress()]
        assert steps == list(range(1, step + 2))


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_progress({"phase": "training", "step": 1})
    with open(tmp_path / "progress.jsonl", "a") as file:
        file.write('{"phase": "trai')
    assert [row["step"] for row in folder.progress()] == [1]
    assert list(RunFolder(tmp_path / "nothing").progress()) == []


@pytest.mark.parametrize("torn", ["", "{", '{"state": "runn', "[]", "null", "\x00" * 20, '{"state": 1, "done"'])
def test_a_torn_status_is_no_status(tmp_path: Path, torn: str) -> None:
    (tmp_path / "status.json").write_text(torn)
    assert RunFolder(tmp_path).status() is None


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_an_incremental_read_gives_the_same_rows_as_a_first_read(restarts: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        curves, step, path = ProgressFile(folder), 0, folder.path / "progress.jsonl"
        assert curves.read() == []
        for back in restarts:
            for _ in range(5):
                step += 1
                folder.append_progress({"phase": "training", "step": step})
            if data.draw(st.booleans()):  # the last line is still being written
                whole = path.read_bytes()
                path.write_bytes(whole[: -data.draw(st.integers(1, 10))])
                curves.read()
                with open(path, "ab") as file:
                    file.write(whole[path.stat().st_size :])
            assert curves.read() == folder.progress()
            step = max(0, step - back)
        path.unlink()
        folder.append_progress({"step": 1})  # a new file
        assert curves.read() == [{"step": 1}]


def test_cancelling_is_a_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.cancel_requested()
    folder.request_cancel()
    assert folder.cancel_requested()
    folder.clear_cancel()
    assert not folder.cancel_requested()


def test_rows_of_several_saes_look_as_if_the_run_had_never_been_killed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def write(step: int, *members: int) -> None:
        for member in members:
            folder.append_progress({"step": step, "member": member})

    write(10, 0, 1, 2)
    write(20, 0, 1, 2)
    write(30, 0, 1)  # killed here; the checkpoint was of step 15
    write(17, 0, 1, 2)
    write(30, 0, 1, 2)
    assert [(row["step"], row["member"]) for row in folder.progress()] == [
        (step, member) for step in (10, 17, 30) for member in range(3)]
