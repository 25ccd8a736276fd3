"""Tests of the order in which processes get the processor."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sae.workspace import priority
from sae.workspace.priority import MODEL_WORKER, RUN, yield_processor

OURS = Path("/proc/self/autogroup")


def test_pages_come_before_the_model_worker_and_that_before_runs() -> None:
    assert 0 < MODEL_WORKER < RUN
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield_processor(child.pid, MODEL_WORKER)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(19, ours + MODEL_WORKER)
        yield_processor(child.pid, 40)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
        child.communicate(b"\n")
    yield_processor(child.pid, RUN)  # it has ended, and nothing is raised


@pytest.mark.skipif(not OURS.exists(), reason="this system does not divide the processors by sessions")
@pytest.mark.parametrize("own_session", [True, False])
def test_a_session_of_its_own_is_lowered_and_ours_stays(own_session: bool) -> None:
    before = OURS.read_text()
    wanted = min(19, os.getpriority(os.PRIO_PROCESS, 0) + RUN)
    with subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=own_session) as child:
        yield_processor(child.pid, RUN)
        theirs = Path(f"/proc/{child.pid}/autogroup").read_text()
        child.communicate(b"\n")
    assert OURS.read_text() == before
    if own_session and not theirs:
        pytest.skip("this system does not divide the processors by sessions")
    assert theirs.endswith(f" nice {wanted}\n") if own_session else theirs == before


def test_a_system_that_was_asked_too_often_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, calls = tmp_path / "autogroup", 0
    file.write_text("/autogroup-7 nice 0\n")

    def busy(path: Path, mode: str) -> object:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise BlockingIOError(errno.EAGAIN, "too often")
        return open(path, mode)

    monkeypatch.setattr(priority, "open", busy, raising=False)
    monkeypatch.setattr(priority, "_WAIT_S", 0.0)
    priority._lower_session(file, 10)
    assert calls == 3
    assert file.read_text().startswith("10")
    calls = -10
    with pytest.raises(BlockingIOError):
        priority._lower_session(file, 10)
