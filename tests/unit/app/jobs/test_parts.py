"""Tests of runs in parts: the parts run at the same time, their parent after all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import parts, queue
from app.jobs.launchers import Handle
from app.jobs.launchers.local import LocalLauncher
from app.jobs.places import Place
from app.jobs.supervisor import Supervisor
from app.library.catalog import Catalog
from app.settings import Settings
from sae.runs.folder import Kind, RunFolder
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import fake_command
from tests.unit.app.jobs.launchers.journey import Journey, assert_divided_same_as_here, write_text


class NearCluster(LocalLauncher):
    """A launcher that calls this machine a cluster."""

    name, stops_with_server = "ray", False


@pytest.fixture
def watcher(settings: Settings, sessions: SessionFactory, workspace: Workspace, catalog: Catalog) -> Supervisor:
    return Supervisor(settings, sessions, LocalLauncher(workspace, fake_command), catalog,
                      [NearCluster(workspace, fake_command)])


def killed_once(watcher: Supervisor, sessions: SessionFactory, name: str) -> bool:
    """Kill a run's process as soon as it works, and return whether it was there."""
    with sessions() as db:
        run = db.get_one(Run, name)
    folder = RunFolder(watcher.settings.workspace.run(name))
    if run.ref is None or not (folder.checkpoints / "step").exists():
        return False
    watcher.launchers["ray"].kill(Handle("ray", run.ref, run.ref_mark or ""))
    return True


@pytest.mark.parametrize(("kind", "spec"), [
    ("sweep", {"parts": 2}), ("evaluate", {"sae": "demo/x", "shards": 2})])
def test_a_lost_part_is_started_again_alone(
    watcher: Supervisor, sessions: SessionFactory, workspace: Workspace, kind: Kind, spec: dict[str, object]
) -> None:
    with sessions() as db:
        run_id = queue.enqueue(db, workspace, kind, {**spec, "steps": 12, "step_s": 0.03}, place=Place("ray")).id
        one, other = parts.ids_of(db, run_id)
    tick_until(watcher, lambda: killed_once(watcher, sessions, one))
    tick_until(watcher, lambda: states(sessions, run_id)[run_id] == "succeeded")
    with sessions() as db:
        assert [db.get_one(Run, name).attempt for name in (one, other, run_id)] == [2, 1, 1]
        assert db.get_one(Run, one).kind == f"{kind}-part"
    starts = [int(line) for line in (workspace.run(one) / "starts").read_text().split()]
    assert starts[0] == 0 < starts[1], "it has resumed"


@pytest.fixture
def index(sessions: SessionFactory, workspace: Workspace) -> str:
    with sessions() as db:
        return queue.enqueue(db, workspace, "index", {"sae": "demo/x", "shards": 3}, "ada", place=Place("ray")).id


def states(sessions: SessionFactory, run_id: str) -> dict[str, str]:
    with sessions() as db:
        return {name: db.get_one(Run, name).state for name in [run_id, *parts.ids_of(db, run_id)]}


def tick_until(watcher: Supervisor, seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not seen():
        assert time.monotonic() < deadline
        watcher.tick()
        time.sleep(0.01)


def test_the_parent_starts_after_its_parts(
    watcher: Supervisor, sessions: SessionFactory, workspace: Workspace, index: str
) -> None:
    assert list(states(sessions, index)) == [index, *(f"{index}-part-{n}" for n in (1, 2, 3))]
    watcher.tick()
    watcher.tick()
    now = states(sessions, index)
    assert now.pop(index) == "queued"
    assert set(now.values()) <= {"starting", "running"}, "all parts at the same time"
    tick_until(watcher, lambda: states(sessions, index)[index] == "succeeded")
    assert set(states(sessions, index).values()) == {"succeeded"}
    assert RunFolder(workspace.run(f"{index}-part-2")).spec() == ("index-part", {"run": index, "part": 2})


def test_a_failed_part_ends_its_parent_and_both_are_resumed(
    watcher: Supervisor, sessions: SessionFactory, workspace: Workspace, index: str
) -> None:
    with sessions() as db:
        queue.transition(db, f"{index}-part-2", queue.QUEUED, state="failed", error="the disk is full")
    watcher.tick()
    with sessions() as db:
        run = db.get_one(Run, index)
        assert (run.state, run.error) == ("failed", f"{index}-part-2: the disk is full")
        assert queue.resume(db, workspace, index)
    tick_until(watcher, lambda: states(sessions, index)[index] == "succeeded")


def test_cancelling_and_deleting_the_parent_reaches_its_parts(
    sessions: SessionFactory, workspace: Workspace, index: str
) -> None:
    with sessions() as db:
        assert queue.cancel(db, workspace, index)
        assert set(states(sessions, index).values()) == {"cancelled"}
        assert queue.delete(db, workspace, index)
        assert parts.ids_of(db, index) == []


def test_this_machine_makes_the_parts_in_one_run(sessions: SessionFactory, workspace: Workspace) -> None:
    with sessions() as db:
        run = queue.enqueue(db, workspace, "index", {"sae": "demo/x", "shards": 3})
        assert parts.ids_of(db, run.id) == []


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_real_parts_of_which_one_is_killed_give_the_results_of_one_process(
    settings: Settings, sessions: SessionFactory, workspace: Workspace, catalog: Catalog, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the comparison is bit for bit
    watcher = Supervisor(settings, sessions, LocalLauncher(workspace), catalog, [NearCluster(workspace)])
    journey = Journey(watcher, sessions, workspace, "ray")

    def kill_the_first(names: list[str]) -> None:
        journey.until(lambda: journey.run(names[0]).progress > 0.1)
        run = journey.run(names[0])
        watcher.launchers["ray"].kill(Handle("ray", str(run.ref), run.ref_mark or ""))

    assert_divided_same_as_here(journey, write_text(tmp_path / "text"), kill_the_first, Workspace(tmp_path / "here"))
