"""Tests of run folders that other programs write: reopened, and the end of their logs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.jobs.folders import last_line, log_tail, reopen
from sae.runs.folder import RunFolder, Status


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run-1")
    folder.create("train", {})
    return folder


@pytest.mark.parametrize(("state", "after"), [
    ("cancelled", "interrupted"), ("failed", "interrupted"), ("succeeded", "succeeded"), ("running", "running")])
def test_a_stopped_run_is_reopened_and_a_finished_one_not(folder: RunFolder, state: str, after: str) -> None:
    folder.write_status(Status(state=state, error="k: too large", pid=7, overall=0.5))
    folder.request_cancel()
    reopen(folder)
    status = folder.status()
    assert status is not None
    assert (status.state, status.overall) == (after, 0.5)
    assert (status.error is None) == (after == "interrupted")
    assert not folder.cancel_requested()


def test_a_deleted_folder_is_not_made_again(folder: RunFolder) -> None:
    shutil.rmtree(folder.path)
    reopen(folder)
    assert not folder.path.exists()
    assert log_tail(folder) == []
    assert last_line(folder) == "(nothing)"


def test_the_log_is_shown_as_a_terminal_shows_it(folder: RunFolder) -> None:
    folder.log.write_bytes(b"one\r\n\n10%\r20%\r30%\nbad \xff byte\n")
    assert log_tail(folder) == ["one", "30%", "bad \ufffd byte"]
    assert log_tail(folder, 1) == ["bad \ufffd byte"]


def test_only_the_end_of_a_long_log_is_read(folder: RunFolder) -> None:
    folder.log.write_text("".join(f"line {i}\n" for i in range(20_000)) + "x" * 1000)
    assert log_tail(folder, 2)[0] == "line 19999"
    assert last_line(folder) == "x" * 300
