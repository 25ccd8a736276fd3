"""A Ray cluster of two nodes on this machine: a node is lost in the middle, and the results are those of a local run.

It needs the command `ray` on the path, or its path in SAESCOPE_TEST_RAY.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.db.engine import SessionFactory
from app.jobs import parts
from app.jobs.launchers import Resources
from app.jobs.launchers.local import LocalLauncher
from app.jobs.launchers.ray import RayLauncher
from app.jobs.places import Place
from app.jobs.supervisor import Supervisor
from app.library.catalog import Catalog
from app.settings import Settings
from sae.autoencoder.artefact import Autoencoder
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests import ROOT
from tests.unit.app.jobs.launchers.journey import (
    INDEX,
    SAE,
    Journey,
    assert_divided_same_as_here,
    assert_same_as_here,
    write_text,
)

RAY = os.environ.get("SAESCOPE_TEST_RAY") or shutil.which("ray") or ""
PYTHON = str(Path(RAY or "ray").with_name("python"))  # it has Ray, and saescope is on its path
pytestmark = [pytest.mark.heavy, pytest.mark.skipif(not RAY, reason="Ray is not installed"), pytest.mark.timeout(2400)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class TwoNodes:
    """A head and a second node, each with one CPU, as two trees of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.dashboard = folder, free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.head = self._start("--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}",
                                f"--temp-dir={folder}")
        self._wait(self._answers)
        self.second = self.add_node()

    def add_node(self) -> subprocess.Popen[bytes]:
        return self._start(f"--address=127.0.0.1:{self.port}")

    def lose_a_node(self) -> None:
        os.killpg(self.second.pid, signal.SIGKILL)  # the raylet and all that it started
        self.second.wait()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        with open(self.folder / "ray.log", "ab") as log:
            return subprocess.Popen(
                [RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats",
                 *options], stdout=log, stderr=log, env=environment, start_new_session=True)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/version", timeout=2):
                return True
        except OSError:
            return False

    def _wait(self, seen: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not seen():
            assert time.monotonic() < deadline, (self.folder / "ray.log").read_text()
            time.sleep(0.3)

    def close(self) -> None:
        for process in (self.second, self.head):
            process.terminate()  # drains for up to 30 s
        for process in (self.second, self.head):
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def nodes() -> Iterator[TwoNodes]:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:  # a short path
        cluster = TwoNodes(Path(folder))
        yield cluster
        cluster.close()


@pytest.fixture
def journey(
    nodes: TwoNodes, settings: Settings, sessions: SessionFactory, catalog: Catalog, workspace: Workspace
) -> Journey:
    launcher = RayLauncher(workspace, nodes.address, cpus=1, python=PYTHON)
    nodes._wait(lambda: len(launcher.cluster().nodes) == 2)
    watcher = Supervisor(settings, sessions, LocalLauncher(workspace), catalog, [launcher])
    return Journey(watcher, sessions, workspace, "ray")


def test_a_lost_node_costs_one_part_and_nothing_else(
    nodes: TwoNodes, journey: Journey, workspace: Workspace, tmp_path: Path
) -> None:
    launcher = journey.watcher.launchers["ray"]
    assert launcher.room(Resources(cpus=1, nodes=2))
    assert not launcher.room(Resources(cpus=2))
    train = write_text(tmp_path / "text")
    run_id = journey.go("train", train)
    journey.until(lambda: journey.succeeded(run_id))
    index = journey.go("index", {**INDEX, "shards": 4})
    with journey.sessions() as db:
        names = parts.ids_of(db, index)

    def both_nodes_work() -> bool:
        found = [RunFolder(workspace.run(name)).status() for name in names]
        return sum(one is not None and one.state == "running" and one.phase == "index" for one in found) >= 2

    journey.until(both_nodes_work)
    nodes.lose_a_node()
    journey.until(lambda: journey.succeeded(index))
    attempts = [journey.run(name).attempt for name in names]
    assert sum(attempts) == len(names) + 1, f"one part was made again: {attempts}"
    assert_same_as_here(workspace, train, Workspace(tmp_path / "here"))


def test_divided_runs_lose_a_node_and_nothing_else(
    nodes: TwoNodes, journey: Journey, workspace: Workspace, tmp_path: Path
) -> None:
    def lose_a_node(names: list[str]) -> None:
        def both_nodes_work() -> bool:
            found = [RunFolder(workspace.run(name)).status() for name in names]
            return all(one is not None and one.state == "running" and one.overall > 0 for one in found)

        journey.until(both_nodes_work)
        nodes.lose_a_node()
        nodes.second = nodes.add_node()

    assert_divided_same_as_here(journey, write_text(tmp_path / "text"), lose_a_node, Workspace(tmp_path / "here"))


def test_two_nodes_train_together(journey: Journey, workspace: Workspace, tmp_path: Path) -> None:
    train = {**write_text(tmp_path / "text"), "shards": 2}
    run_id = journey.go("train", train, Place("ray", Resources(cpus=1, nodes=2)))
    journey.until(lambda: journey.succeeded(run_id))
    assert Autoencoder.load(workspace.sae(SAE)).n_latents == 256
