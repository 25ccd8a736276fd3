"""Tests of the workspace lock: one server per workspace, and no lock left behind by a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.jobs.lock import WorkspaceLock
from sae.errors import UserError


def test_the_second_server_is_refused_and_learns_who_holds_the_lock(tmp_path: Path) -> None:
    lock = WorkspaceLock(tmp_path, "http://127.0.0.1:8000")
    with pytest.raises(UserError, match=r"process \d+, http://127\.0\.0\.1:8000"):
        WorkspaceLock(tmp_path)
    lock.release()
    lock.release()
    WorkspaceLock(tmp_path).release()


def test_servers_on_one_postgres_database_share_the_lock_and_keep_others_out(tmp_path: Path) -> None:
    first, second = (WorkspaceLock(tmp_path, "http://127.0.0.1:8000", shared=True) for _ in range(2))
    first.release()
    first.release()
    with pytest.raises(UserError, match="is in use"):
        WorkspaceLock(tmp_path, "restore")
    second.release()
    alone = WorkspaceLock(tmp_path, "http://127.0.0.1:9000")
    with pytest.raises(UserError, match="9000"):
        WorkspaceLock(tmp_path, shared=True)
    alone.release()


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from app.jobs.lock import WorkspaceLock\n"
        "lock = WorkspaceLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError):
            WorkspaceLock(tmp_path)
        holder.send_signal(signal.SIGKILL)
    WorkspaceLock(tmp_path).release()
