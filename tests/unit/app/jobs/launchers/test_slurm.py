"""Tests of the Slurm launcher with stand-ins for sbatch, squeue, scancel and sinfo on the path."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import parts, queue
from app.jobs.launchers import ClusterAway, Handle, Resources, slurm
from app.jobs.launchers.local import LocalLauncher
from app.jobs.launchers.slurm import SlurmLauncher
from app.jobs.places import Place
from app.jobs.supervisor import Supervisor
from app.library.catalog import Catalog
from app.settings import Settings
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import fake_command
from tests.unit.app.jobs.launchers.fake_ray import until
from tests.unit.app.jobs.launchers.journey import INDEX, Journey, assert_same_as_here, write_text


@pytest.fixture
def slurm_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-ins on the path; files in the returned folder steer them."""
    home = tmp_path / "slurm"
    shutil.copytree(Path(__file__).with_name("slurm"), home / "bin")
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setattr(slurm, "_FRESH_S", 0.02)
    return home


@pytest.fixture
def launcher(workspace: Workspace, slurm_home: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmLauncher:
    def command(folder: RunFolder, *_: object) -> list[str]:
        return ["env", f"PYTHONPATH={os.getcwd()}", *fake_command(folder)]

    monkeypatch.setattr(slurm, "node_command", command)
    launcher = SlurmLauncher(workspace, options="--partition=gpu --time='2:00:00'", cpus=2)
    launcher.settle_s = 0.1
    return launcher


@pytest.fixture
def watcher(settings: Settings, sessions: SessionFactory, workspace: Workspace, catalog: Catalog,
            launcher: SlurmLauncher) -> Supervisor:
    return Supervisor(settings, sessions, LocalLauncher(workspace, fake_command), catalog, [launcher])


@pytest.fixture
def submit(sessions: SessionFactory, workspace: Workspace) -> Callable[..., str]:
    def submit(**spec: object) -> str:
        with sessions() as db:
            return queue.enqueue(db, workspace, "train", spec, place=Place("slurm")).id

    return submit


def get(sessions: SessionFactory, run_id: str) -> Run:
    with sessions() as db:
        return db.get_one(Run, run_id)


def tick_until(watcher: Supervisor, seen: Callable[[], bool]) -> None:
    def tick() -> bool:
        watcher.tick()
        return seen()

    until(tick)


def starts(workspace: Workspace, run_id: str) -> list[int]:
    return [int(line) for line in (workspace.run(run_id) / "starts").read_text().split()]


def test_the_options_and_the_script_of_a_job(
    launcher: SlurmLauncher, workspace: Workspace, slurm_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{slurm_home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(slurm_home))
    (slurm_home / "busy").touch()
    folder = RunFolder(workspace.run("train-1"))
    assert launcher.start(folder, 3, Resources(cpus=8, gpus=4, nodes=2)) == Handle("slurm", "101")
    options = (slurm_home / "101.args").read_text().split("\n")
    assert {"--job-name=saescope-train-1-3", "--signal=B:TERM@120", "--requeue", "--export=NONE", "--nodes=2",
            "--cpus-per-task=8", "--gres=gpu:4", "--partition=gpu", "--time=2:00:00"} <= set(options)
    script = (slurm_home / "101.sh").read_text()
    assert "export OMP_NUM_THREADS=8" in script
    assert "export SAESCOPE_ATTEMPT=3" in script
    assert "--nproc-per-node=4 --nnodes=$SLURM_NNODES" in script
    assert script.splitlines()[-1].startswith("exec srun ")
    launcher.start(folder, 4, Resources())
    last = (slurm_home / "102.sh").read_text().splitlines()[-1]
    assert last.startswith("exec "), "Slurm signals the batch script itself"
    assert last.endswith(f"-m sae run --quiet {folder.path}")
    assert subprocess.run(["bash", "-n", str(slurm_home / "101.sh")], check=False).returncode == 0


def test_what_slurm_says_of_a_job(launcher: SlurmLauncher, workspace: Workspace, slurm_home: Path) -> None:
    (slurm_home / "busy").touch()
    folder = RunFolder(workspace.run("train-1"))
    folder.create("train", {"steps": 1})
    handle = launcher.start(folder, 1, Resources())
    assert launcher.life(handle) == "waiting"
    assert launcher.find(folder, 1) == handle
    assert launcher.find(folder, 2) is None
    assert launcher.life(Handle("slurm", "99")) == "ended"
    state = launcher.cluster()
    assert [(node.name, node.state, node.cpus, node.gpus) for node in state.nodes] == [
        ("gpu01", "mixed", (8, 32), (None, 8)), ("cpu01", "down", (0, 64), None)]
    assert state.waiting == (("101 saescope-train-1-1", "Priority"),)
    (slurm_home / "away").touch()
    launcher._seen = 0.0
    assert launcher.life(handle) == "unknown"
    assert "Unable to contact" in launcher.cluster().fault
    with pytest.raises(ClusterAway):
        launcher.start(folder, 2, Resources())
    launcher.kill(handle)  # raises nothing


def test_a_run_succeeds(watcher: Supervisor, sessions: SessionFactory, submit: Callable[..., str],
                        workspace: Workspace) -> None:
    run_id = submit(steps=3)
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    assert "fake run begins: well" in RunFolder(workspace.run(run_id)).log.read_text()


def test_a_refused_job_has_failed_with_slurms_reason(
    watcher: Supervisor, sessions: SessionFactory, submit: Callable[..., str], slurm_home: Path
) -> None:
    (slurm_home / "refuse").touch()
    run_id = submit(steps=3)
    tick_until(watcher, lambda: get(sessions, run_id).state == "failed")
    assert "Invalid partition name" in (get(sessions, run_id).error or "")


def test_the_end_of_the_time_limit_loses_nothing(
    watcher: Supervisor, sessions: SessionFactory, submit: Callable[..., str], slurm_home: Path, workspace: Workspace
) -> None:
    run_id = submit(steps=15, step_s=0.02)
    tick_until(watcher, lambda: get(sessions, run_id).progress > 0.1)
    os.kill(int((slurm_home / "101.pid").read_text()), signal.SIGTERM)  # to the batch script, as --signal=B:TERM@120
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    first, second = starts(workspace, run_id)
    assert second > first == 0
    assert get(sessions, run_id).attempt == 2


def test_a_job_that_slurm_requeues_is_the_same_attempt(
    watcher: Supervisor, sessions: SessionFactory, submit: Callable[..., str], slurm_home: Path, workspace: Workspace
) -> None:
    run_id = submit(steps=15, step_s=0.02)
    tick_until(watcher, lambda: get(sessions, run_id).progress > 0.1)
    (slurm_home / "101.pending").touch()  # the node fails
    os.killpg(int((slurm_home / "101.pid").read_text()), signal.SIGKILL)
    tick_until(watcher, lambda: get(sessions, run_id).waiting_for == "a free place on the cluster")
    subprocess.run(["start", "101"], check=True)
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    assert get(sessions, run_id).attempt == 1
    assert len(starts(workspace, run_id)) == 2


def test_a_sweep_in_parts_loses_a_node(
    watcher: Supervisor, sessions: SessionFactory, slurm_home: Path, workspace: Workspace
) -> None:
    with sessions() as db:
        spec = {"parts": 2, "steps": 15, "step_s": 0.02}
        sweep = queue.enqueue(db, workspace, "sweep", spec, place=Place("slurm")).id
        one, other = parts.ids_of(db, sweep)
    tick_until(watcher, lambda: get(sessions, one).progress > 0.1)
    os.killpg(int((slurm_home / f"{get(sessions, one).ref}.pid").read_text()), signal.SIGKILL)
    tick_until(watcher, lambda: get(sessions, sweep).state == "succeeded")
    assert [get(sessions, name).attempt for name in (one, other, sweep)] == [2, 1, 1]
    assert get(sessions, one).kind == "sweep-part"
    assert len(starts(workspace, one)) == 2
    assert starts(workspace, other) == [0]


def test_a_stubborn_run_is_cancelled_in_three_steps(
    watcher: Supervisor, sessions: SessionFactory, submit: Callable[..., str], slurm_home: Path, workspace: Workspace
) -> None:
    run_id = submit(behave="stubborn", steps=100_000)
    tick_until(watcher, lambda: get(sessions, run_id).state == "running")
    with sessions() as db:
        queue.cancel(db, workspace, run_id)
    tick_until(watcher, lambda: get(sessions, run_id).state == "cancelled")
    asked = (slurm_home / "scancels").read_text().splitlines()
    assert asked[0] == "--signal=TERM --full 101"
    assert asked[-1] == "101"


@pytest.mark.heavy
@pytest.mark.timeout(2400)
def test_the_whole_journey_with_real_runs(
    settings: Settings, sessions: SessionFactory, workspace: Workspace, catalog: Catalog, slurm_home: Path,
    tmp_path: Path,
) -> None:
    """Train and index in parts; the time limit ends the training, and a node takes one part with it."""
    launcher = SlurmLauncher(workspace, cpus=1, python=str(slurm_home / "python"))
    (slurm_home / "python").write_text(
        f'#!/bin/bash\nexport PYTHONPATH={shlex.quote(os.getcwd())}\nexec {sys.executable} "$@"\n')
    (slurm_home / "python").chmod(0o755)
    watcher = Supervisor(settings, sessions, LocalLauncher(workspace), catalog, [launcher])
    journey = Journey(watcher, sessions, workspace, "slurm")
    train = write_text(tmp_path / "text")
    run_id = journey.go("train", train)
    journey.until(lambda: journey.run(run_id).progress > 0.2)
    os.kill(int((slurm_home / "101.pid").read_text()), signal.SIGTERM)
    journey.until(lambda: journey.succeeded(run_id))
    assert journey.run(run_id).attempt == 2
    index = journey.go("index", {**INDEX, "shards": 3})
    with sessions() as db:
        part = parts.ids_of(db, index)[0]
    journey.until(lambda: journey.run(part).progress > 0.2)
    os.killpg(int((slurm_home / f"{journey.run(part).ref}.pid").read_text()), signal.SIGKILL)
    journey.until(lambda: journey.succeeded(index))
    assert journey.run(part).attempt == 2
    assert_same_as_here(workspace, train, Workspace(tmp_path / "here"))
