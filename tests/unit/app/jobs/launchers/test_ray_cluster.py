"""A Ray cluster of two nodes on this machine: a node is lost in the middle, and the results are those of a local run.

It needs the command `ray` on the path, or its path in SAESCOPE_TEST_RAY.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import parts, queue
from app.jobs.launchers import Resources
from app.jobs.launchers.local import LocalLauncher
from app.jobs.launchers.ray import RayLauncher
from app.jobs.places import Place
from app.jobs.supervisor import Supervisor
from app.library.catalog import Catalog
from app.settings import Settings
from sae.runs.folder import RunFolder
from sae.specs.registry import located, parse_spec
from sae.workspace.paths import Workspace
from tests import ROOT
from tests.unit.sae.index.test_scan import everything

RAY = os.environ.get("SAESCOPE_TEST_RAY") or shutil.which("ray") or ""
pytestmark = [pytest.mark.heavy, pytest.mark.skipif(not RAY, reason="Ray is not installed"), pytest.mark.timeout(900)]

TRAIN: dict[str, Any] = {
    "name": "tiny", "n_latents": 256, "k": 8, "context_length": 32, "tokens": 200_000, "batch_tokens": 256,
    "buffer_tokens": 8192, "eval_tokens": 2_000, "ce_tokens": 512, "index": False, "device": "cpu"}
INDEX: dict[str, Any] = {"sae": "demo/tiny", "index_tokens": 400_000, "top_contexts": 4, "device": "cpu"}


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
def text(tmp_path: Path) -> Path:
    """Write about 500,000 tokens of Python."""
    folder = tmp_path / "text"
    folder.mkdir()
    size = 0
    for source in sorted(Path(os.__file__).parent.glob("*.py")):
        if size < 2_200_000:
            size += Path(shutil.copy(source, folder)).stat().st_size
    return folder


def local_run(workspace: Workspace, kind: str, values: dict[str, Any]) -> None:
    folder = RunFolder(workspace.run(f"{kind}-here"))
    folder.create(kind, values)  # type: ignore[arg-type]
    subprocess.run([sys.executable, "-m", "sae", "run", str(folder.path)], check=True, cwd=ROOT,
                   env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def test_a_lost_node_costs_one_part_and_nothing_else(
    nodes: TwoNodes, settings: Settings, sessions: SessionFactory, catalog: Catalog, workspace: Workspace, text: Path,
    tmp_path: Path,
) -> None:
    launcher = RayLauncher(workspace, nodes.address, cpus=1, python=sys.executable)
    watcher = Supervisor(settings, sessions, LocalLauncher(workspace), catalog, [launcher])
    nodes._wait(lambda: len(launcher.cluster().nodes) == 2)
    assert launcher.room(Resources(cpus=1, nodes=2))
    assert not launcher.room(Resources(cpus=2))

    def go(kind: str, values: dict[str, Any]) -> str:
        spec = located(parse_spec(kind, values)).model_dump(mode="json")
        with sessions() as db:
            return queue.enqueue(db, workspace, kind, spec, place=Place("ray")).id  # type: ignore[arg-type]

    def state(run_id: str) -> str:
        with sessions() as db:
            run = db.get_one(Run, run_id)
            assert run.state not in ("failed", "cancelled"), run.error
            return run.state

    def until(seen: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 600
        while not seen():
            assert time.monotonic() < deadline
            watcher.tick()
            time.sleep(0.2)

    train = {**TRAIN, "text": str(text)}
    run_id = go("train", train)
    until(lambda: state(run_id) == "succeeded")

    index = go("index", {**INDEX, "shards": 4})
    with sessions() as db:
        names = parts.ids_of(db, index)

    def both_nodes_work() -> bool:
        found = [RunFolder(workspace.run(name)).status() for name in names]
        return sum(one is not None and one.state == "running" and one.phase == "index" for one in found) >= 2

    until(both_nodes_work)
    os.killpg(nodes.second.pid, signal.SIGKILL)  # the raylet and all that it started
    until(lambda: state(index) == "succeeded")
    with sessions() as db:
        attempts = [db.get_one(Run, name).attempt for name in names]
    assert sum(attempts) == len(names) + 1, f"one part was made again: {attempts}"

    here = Workspace(tmp_path / "here")
    local_run(here, "train", train)
    local_run(here, "index", INDEX)
    for name in ("sae.safetensors",):
        assert (workspace.sae("demo/tiny") / name).read_bytes() == (here.sae("demo/tiny") / name).read_bytes()
    there = everything(next(workspace.builds("demo/tiny").glob("*.duckdb")))
    alone = everything(next(here.builds("demo/tiny").glob("*.duckdb")))
    changing = {"run", "command", "build_id"}
    there["meta"], alone["meta"] = ([row for row in rows["meta"] if row[0] not in changing] for rows in (there, alone))
    assert there == alone
