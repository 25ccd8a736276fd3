"""Tests of the Ray launcher against a dashboard with Ray's measured behaviour, and of the supervisor with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import queue
from app.jobs import supervisor as supervisor_module
from app.jobs.launchers import ClusterAway, Handle, Resources, ray
from app.jobs.launchers.local import LocalLauncher
from app.jobs.launchers.ray import RayLauncher
from app.jobs.places import Place
from app.jobs.supervisor import Supervisor
from app.library.catalog import Catalog
from app.settings import Settings
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import fake_command
from tests.unit.app.jobs.launchers.fake_ray import FakeRay, fake_ray, until


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FakeRay]]:
    monkeypatch.setattr(ray, "node_command", lambda folder, resources, python: fake_command(folder))
    monkeypatch.setattr(ray, "_PAUSE_S", 0.0)
    with fake_ray() as (address, cluster):
        yield address, cluster


@pytest.fixture
def launcher(workspace: Workspace, dashboard: tuple[str, FakeRay]) -> RayLauncher:
    launcher = RayLauncher(workspace, dashboard[0], cpus=2, stop_s=8)
    launcher.settle_s = 0.3
    return launcher


@pytest.fixture
def watcher(settings: Settings, sessions: SessionFactory, workspace: Workspace, catalog: Catalog,
            launcher: RayLauncher) -> Supervisor:
    return Supervisor(settings, sessions, LocalLauncher(workspace, fake_command), catalog, [launcher])


Submit = Callable[..., str]


@pytest.fixture
def submit(sessions: SessionFactory, workspace: Workspace) -> Submit:
    def submit(**spec: object) -> str:
        with sessions() as db:
            return queue.enqueue(db, workspace, "train", spec, place=Place("ray")).id

    return submit


def folder_of(workspace: Workspace, name: str = "train-1", **spec: object) -> RunFolder:
    folder = RunFolder(workspace.run(name))
    folder.create("train", spec)
    return folder


def get(sessions: SessionFactory, run_id: str) -> Run:
    with sessions() as db:
        return db.get_one(Run, run_id)


def tick_until(watcher: Supervisor, seen: Callable[[], bool]) -> None:
    def tick() -> bool:
        watcher.tick()
        return seen()

    until(tick)


# ---- the launcher alone


def test_a_job_asks_for_its_resources_and_names_its_run(
    launcher: RayLauncher, workspace: Workspace, dashboard: tuple[str, FakeRay]
) -> None:
    folder = folder_of(workspace, steps=1)
    handle = launcher.start(folder, 1, Resources(cpus=3, gpus=1))
    assert handle == Handle("ray", "saescope-train-1-1")
    body = dashboard[1].asked[0]
    environment = body["runtime_env"]["env_vars"]
    assert (body["entrypoint_num_cpus"], body["entrypoint_num_gpus"]) == (3, 1)
    assert environment["OMP_NUM_THREADS"] == "3"  # Ray's own choice would be 1
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "8"
    assert environment["SAESCOPE_HOME"] == str(workspace.root)
    assert body["metadata"] == {"saescope_run": "train-1"}
    until(lambda: launcher.life(handle) == "ended")
    assert "fake run begins: well" in folder.log.read_text()


def test_a_job_for_several_nodes_takes_nothing_from_them_itself(
    launcher: RayLauncher, workspace: Workspace, dashboard: tuple[str, FakeRay]
) -> None:
    dashboard[1].cpus = -1  # nothing is started here
    launcher.start(folder_of(workspace), 1, Resources(gpus=8, nodes=2))
    body = dashboard[1].asked[0]
    assert not [name for name in body if name.startswith("entrypoint_num")]
    assert "-m sae.runs.ray_gang" in body["entrypoint"]
    assert "--nodes=2 --gpus=8 --cpus=2" in body["entrypoint"]


def test_no_secret_of_the_server_is_sent(
    launcher: RayLauncher, workspace: Workspace, dashboard: tuple[str, FakeRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@db/x")
    launcher.start(folder_of(workspace, steps=1), 1, Resources())
    assert "hunter2" not in str(dashboard[1].asked)


def test_a_lost_answer_is_no_second_job(
    launcher: RayLauncher, workspace: Workspace, dashboard: tuple[str, FakeRay]
) -> None:
    folder, cluster = folder_of(workspace, steps=100_000), dashboard[1]
    cluster.lose_answers = 1
    with pytest.raises(ClusterAway, match="does not answer"):
        launcher.start(folder, 1, Resources())
    handle = launcher.find(folder, 1)
    assert handle is not None
    assert launcher.start(folder, 1, Resources()) == handle  # answered with 500: the id is taken
    assert len(cluster.jobs) == 1
    assert launcher.find(folder, 2) is None
    launcher.terminate(handle)
    until(lambda: launcher.life(handle) == "ended")


def test_what_ray_says_of_a_job(launcher: RayLauncher, workspace: Workspace, dashboard: tuple[str, FakeRay]) -> None:
    cluster = dashboard[1]
    cluster.cpus = 0
    folder = folder_of(workspace, steps=1)
    handle = launcher.start(folder, 1, Resources())
    assert launcher.life(handle) == "waiting"
    launcher.kill(handle)
    assert launcher.life(handle) == "waiting", "a stopped job stays pending"
    cluster.start_timeout(handle.ref)
    assert launcher.life(handle) == "never_started"
    assert launcher.life(Handle("ray", "saescope-of-another-cluster-1")) == "ended"
    cluster.away = True
    assert launcher.life(handle) == "unknown"
    with pytest.raises(ClusterAway):
        launcher.find(folder, 1)
    launcher.terminate(handle)  # raises nothing


def test_a_cluster_that_wants_a_token(workspace: Workspace, dashboard: tuple[str, FakeRay]) -> None:
    address, cluster = dashboard
    cluster.token = "s3cret"
    assert RayLauncher(workspace, address, token="s3cret").cluster().fault == ""
    refused = RayLauncher(workspace, address, token="other").cluster()
    assert "SAESCOPE_RAY_TOKEN" in refused.fault


def test_the_state_of_the_cluster(launcher: RayLauncher, workspace: Workspace, dashboard: tuple[str, FakeRay]) -> None:
    assert launcher.room(Resources(cpus=4))
    assert not launcher.room(Resources(cpus=5))
    assert not launcher.room(Resources(cpus=1, gpus=1))
    assert not launcher.room(Resources(cpus=1, nodes=2))
    dashboard[1].cpus = 1
    launcher.start(folder_of(workspace, steps=1), 1, Resources(cpus=2))
    state = launcher.cluster()
    assert [(node.name, node.state, node.cpus) for node in state.nodes] == [("head-1 (head)", "alive", (0, 1))]
    assert [name for name, _ in state.waiting] == ["saescope-train-1-1"]
    assert not launcher.room(Resources(cpus=1)), "a job waits already"
    dashboard[1].away = True
    assert "does not answer" in launcher.cluster().fault
    assert not launcher.room(Resources(cpus=1))


def test_a_dashboard_that_does_not_answer_is_not_asked_at_every_check(
    launcher: RayLauncher, dashboard: tuple[str, FakeRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "_PAUSE_S", 60.0)
    dashboard[1].away = True
    assert launcher.life(Handle("ray", "x")) == "unknown"
    dashboard[1].away = False
    assert launcher.life(Handle("ray", "x")) == "unknown"


# ---- the supervisor with it


def test_a_run_on_the_cluster_succeeds(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay]
) -> None:
    run_id = submit(steps=3)
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    run = get(sessions, run_id)
    assert (run.attempt, run.ref, run.progress) == (1, None, 1.0)
    assert list(dashboard[1].jobs) == [f"saescope-{run_id}-1"]


def test_a_run_whose_node_dies_resumes_as_a_new_job(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay], workspace: Workspace
) -> None:
    run_id = submit(steps=15, step_s=0.01)
    tick_until(watcher, lambda: get(sessions, run_id).progress > 0.1)
    dashboard[1].kill_job(f"saescope-{run_id}-1")
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    assert get(sessions, run_id).attempt == 2
    starts = [int(line) for line in (workspace.run(run_id) / "starts").read_text().split()]
    assert starts[1] > starts[0] == 0


def test_a_submission_whose_answer_was_lost_is_adopted(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay]
) -> None:
    dashboard[1].lose_answers = 1
    run_id = submit(steps=10, step_s=0.02)
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    assert list(dashboard[1].jobs) == [f"saescope-{run_id}-1"]


def test_a_submission_that_never_arrived_is_made_again(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay], launcher: RayLauncher
) -> None:
    launcher.room = lambda resources: True  # type: ignore[method-assign]
    dashboard[1].away = True
    run_id = submit(steps=1)
    tick_until(watcher, lambda: get(sessions, run_id).waiting_for is not None)
    assert "does not answer" in (get(sessions, run_id).waiting_for or "")
    dashboard[1].away = False
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    assert get(sessions, run_id).requeues == 0


def test_a_head_that_forgot_its_jobs_starts_no_second_process(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay], workspace: Workspace
) -> None:
    run_id = submit(steps=20, step_s=0.01)
    tick_until(watcher, lambda: get(sessions, run_id).progress > 0.1)
    dashboard[1].forget()  # the process beats on
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")
    assert len((workspace.run(run_id) / "starts").read_text().split()) == 1
    assert get(sessions, run_id).attempt == 1


def test_a_cluster_that_is_away_changes_nothing(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay]
) -> None:
    run_id = submit(steps=20, step_s=0.01)
    tick_until(watcher, lambda: get(sessions, run_id).progress > 0.1)
    dashboard[1].away = True
    tick_until(watcher, lambda: get(sessions, run_id).progress > 0.5)
    assert get(sessions, run_id).waiting_for == "an answer of the cluster"
    dashboard[1].away = False
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")


def test_a_run_waits_in_our_queue_until_the_cluster_has_room(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay], workspace: Workspace
) -> None:
    dashboard[1].cpus = 1
    run_id = submit(steps=1)
    with sessions() as db:
        here = queue.enqueue(db, workspace, "train", {"steps": 1}).id  # on this machine; it need not wait
    tick_until(watcher, lambda: get(sessions, here).state == "succeeded")
    assert get(sessions, run_id).state == "queued"
    assert dashboard[1].jobs == {}
    dashboard[1].cpus = 2
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")


def test_a_job_that_never_started_is_queued_again_without_being_counted(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay], launcher: RayLauncher
) -> None:
    launcher.room = lambda resources: True  # type: ignore[method-assign]
    dashboard[1].cpus = 0
    run_id = submit(steps=1)
    tick_until(watcher, lambda: get(sessions, run_id).waiting_for == "a free place on the cluster")
    dashboard[1].start_timeout(f"saescope-{run_id}-1")
    tick_until(watcher, lambda: get(sessions, run_id).attempt == 2)
    assert get(sessions, run_id).requeues == 0
    dashboard[1].cpus = 4
    tick_until(watcher, lambda: get(sessions, run_id).state == "succeeded")


def test_a_waiting_job_is_cancelled_at_once_and_does_nothing_when_it_starts(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay],
    launcher: RayLauncher, workspace: Workspace,
) -> None:
    launcher.room = lambda resources: True  # type: ignore[method-assign]
    dashboard[1].cpus = 0
    run_id = submit(steps=1)
    tick_until(watcher, lambda: get(sessions, run_id).ref is not None)
    with sessions() as db:
        queue.cancel(db, workspace, run_id)
    tick_until(watcher, lambda: get(sessions, run_id).state == "cancelled")
    dashboard[1].jobs[f"saescope-{run_id}-1"].pop("stop")  # it starts although it was stopped
    dashboard[1].cpus = 4
    until(lambda: launcher.life(Handle("ray", f"saescope-{run_id}-1")) == "ended")
    status = RunFolder(workspace.run(run_id)).status()
    assert status is not None
    assert status.state == "cancelled"


def test_a_running_job_is_cancelled_by_the_file_in_its_folder(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, workspace: Workspace
) -> None:
    run_id = submit(steps=100_000)
    tick_until(watcher, lambda: get(sessions, run_id).state == "running")
    with sessions() as db:
        queue.cancel(db, workspace, run_id)
    tick_until(watcher, lambda: get(sessions, run_id).state == "cancelled")
    status = RunFolder(workspace.run(run_id)).status()
    assert status is not None
    assert status.state == "cancelled"


def test_the_next_server_finds_a_job_whose_handle_was_never_stored_and_does_not_stop_it(
    watcher: Supervisor, sessions: SessionFactory, submit: Submit, dashboard: tuple[str, FakeRay], settings: Settings,
    catalog: Catalog, launcher: RayLauncher, workspace: Workspace,
) -> None:
    run_id = submit(steps=60, step_s=0.01)
    tick_until(watcher, lambda: get(sessions, run_id).state == "running")
    watcher.stop()
    with sessions() as db:
        queue.transition(db, run_id, queue.ACTIVE, state="starting", ref=None)
    heir = Supervisor(settings, sessions, LocalLauncher(workspace, fake_command), catalog, [launcher])
    tick_until(heir, lambda: get(sessions, run_id).state == "succeeded")
    assert list(dashboard[1].jobs) == [f"saescope-{run_id}-1"]


def test_an_adopted_run_of_another_host_is_watched_by_its_heartbeat(
    watcher: Supervisor, sessions: SessionFactory, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.jobs.launchers.elsewhere import Elsewhere

    watcher.launchers["elsewhere"] = Elsewhere()
    folder = folder_of(workspace, "train-7")
    status = Status(state="running", pid=1, host="node_17", overall=0.25)
    folder.write_status(status)
    tick_until(watcher, lambda: bool(watcher._synced))
    with sessions() as db:
        assert db.get_one(Run, "train-7").state == "running"
    tick_until(watcher, lambda: get(sessions, "train-7").progress == 0.25)
    monkeypatch.setattr(supervisor_module, "SILENT_S", 0.05)
    time.sleep(0.1)
    tick_until(watcher, lambda: get(sessions, "train-7").state == "cancelled")
