"""The fixtures of the tests of `app`: a workspace, its database and the program.

Where Postgres is installed, the tests of `ON_POSTGRES` run twice: on SQLite, and on Postgres in a database of their
own.  If `SAESCOPE_TEST_POSTGRES` names a Postgres database that tests may use, every test with a database does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from fastapi.testclient import TestClient
from sqlalchemy import Engine, make_url

from app.access import accounts
from app.db.engine import SessionFactory, make_engine, make_session_factory, upgrade
from app.jobs.launchers.local import LocalLauncher
from app.jobs.supervisor import Supervisor
from app.library.catalog import Catalog
from app.page_workers import pool
from app.settings import Settings
from app.worker import client as worker_client
from sae.runs import inspect_source
from sae.runs.folder import RunFolder
from sae.store.build import Build
from sae.store.page_file import page_file_path
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests import postgres
from tests.builds import Synthetic, make_build
from tests.forked_modules import forking

FAKE_RUN = Path(__file__).with_name("fake_run.py")
BATCH, TOP = "demo/2-res-batchtopk-4k", "demo/2-res-topk-4k"
METRICS = {"fvu": 0.1842, "l0": 12.01, "delta_ce": 0.081, "dead": 17, "dead_fraction": 0.05, "tokens": 100_000}


# Every file whose tests depend on how the database compares, counts, locks or stores.
ON_POSTGRES = frozenset({
    "test_engine", "test_tables", "test_accounts", "test_queue", "test_parts", "test_lists",
    "test_labels", "test_stars", "test_latent_search", "test_evaluation_mirror", "test_explanation_mirror",
    "test_written", "test_retention", "test_cli_care", "test_presence", "test_lease", "test_rate_limits",
    "test_relay", "test_relayed_runs", "test_clock",
    "test_servers_together"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        too = postgres.GIVEN or (postgres.available() and metafunc.module.__name__.rpartition(".")[2] in ON_POSTGRES)
        metafunc.parametrize("database_url", ["sqlite", "postgres"] if too else ["sqlite"], indirect=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Start a Postgres cluster for the tests of this process."""
    with postgres.cluster() as address:
        yield address


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Make a Postgres database with all tables, for copies."""
    with postgres.database(postgres_server) as address:
        engine = make_engine(address)
        upgrade(engine)
        engine.dispose()
        yield str(make_url(address).database)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Provide the address of a database without rows; the empty string means SQLite in the workspace."""
    if request.param == "sqlite":
        yield ""
        return
    template = request.getfixturevalue("postgres_template")
    with postgres.database(request.getfixturevalue("postgres_server"), template) as address:
        yield address


@pytest.fixture(scope="session", autouse=True)
def _quick_passwords() -> Iterator[None]:
    """Hash passwords with the least work; `test_accounts` holds the parameters that the program uses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="session", autouse=True)
def _forked_workers() -> Iterator[None]:
    """Fork workers and readers of files, because their imports take most of the time of a test that starts one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (worker_client, pool, inspect_source):
            patch.setattr(module, "subprocess", forking())
        yield


@pytest.fixture
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start workers and readers of files as the program does."""
    for module in (worker_client, pool, inspect_source):
        monkeypatch.setattr(module, "subprocess", subprocess)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty SQLite database with all tables, for copies: the migrations take longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "app.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def settings(tmp_path: Path, database_url: str, migrated: Path) -> Settings:
    settings = Settings.load(
        home=tmp_path / "data", demo=False, database_url=database_url, poll_s=0.02, cancel_grace_s=0.2,
        shutdown_grace_s=5)
    if not database_url:
        settings.home.mkdir()
        shutil.copy(migrated, settings.workspace.database)
    return settings


@pytest.fixture
def workspace(settings: Settings) -> Workspace:
    return settings.workspace


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    settings.home.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> SessionFactory:
    return make_session_factory(engine)


@pytest.fixture
def catalog(workspace: Workspace, sessions: SessionFactory) -> Catalog:
    return Catalog(workspace, sessions)


def fake_command(folder: RunFolder) -> list[str]:
    """Return the command of the fake run program, instead of `python -m sae run`."""
    return [sys.executable, str(FAKE_RUN), str(folder.path)]


@pytest.fixture
def launcher(workspace: Workspace) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(workspace, fake_command)
    yield launcher
    for child in list(launcher._children.values()):  # a failed test must leave no process behind
        child.kill()
        child.wait()


@pytest.fixture
def supervisor(
    settings: Settings, sessions: SessionFactory, launcher: LocalLauncher, catalog: Catalog
) -> Supervisor:
    return Supervisor(settings, sessions, launcher, catalog)


@pytest.fixture
def client(settings: Settings, launcher: LocalLauncher) -> Iterator[TestClient]:
    """Start the program with a signed-out browser; queued runs stay queued."""
    from app.main import create_app

    with TestClient(create_app(settings, launcher=launcher, supervise=False), follow_redirects=False) as client:
        yield client


@pytest.fixture
def admin(client: TestClient, settings: Settings) -> TestClient:
    """Sign the browser in as an administrator."""
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        user = accounts.set_password(db, "ada", "correct horse")
        client.cookies.set(accounts.COOKIE, accounts.open_session(db, user, settings))
    return client


def sae_config(sae_id: str = "demo/2-res-batchtopk-4k", **changes: object) -> dict[str, object]:
    """Return a `sae.json` as a training run writes it."""
    model = sae_id.partition("/")[0]
    return {
        "schema_version": 1, "id": sae_id, "model": {"name": model, "id": model},
        "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "architecture": "batch_topk",
        "n_latents": 4096, "d_model": 256, "k": 32, "normalize": "layer_norm", "created": 1_700_000_000.0,
    } | changes


def write_sae(workspace: Workspace, sae_id: str = "demo/2-res-batchtopk-4k", **changes: object) -> None:
    """Write an SAE to the workspace with the parts that the web program reads."""
    write_json(workspace.sae(sae_id) / "sae.json", sae_config(sae_id, **changes))


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Synthetic]:
    """Make two builds with their page files, for copies."""
    folder = tmp_path_factory.mktemp("builds")
    builds = {
        BATCH: make_build(folder / "index-1.duckdb", n_latents=160, n_contexts=40, sae_id=BATCH),
        TOP: make_build(
            folder / "index-2.duckdb", n_latents=160, n_contexts=40, sae_id=TOP, architecture="topk")}
    for build in builds.values():
        Build.open(build.path).close()  # makes the page file
    return builds


@pytest.fixture
def browsable(client: TestClient, workspace: Workspace, made: dict[str, Synthetic]) -> TestClient:
    """The program with two SAEs, each with a build; the first with the run that made it."""
    for sae_id, build in made.items():
        target = workspace.build(sae_id, build.path.stem)
        target.parent.mkdir(parents=True)
        for file in (build.path, page_file_path(build.path)):
            shutil.copy(file, target.with_name(file.name))
        architecture = "topk" if sae_id == TOP else "batch_topk"
        write_json(workspace.sae(sae_id) / "sae.json", {
            "schema_version": 1, "id": sae_id, "model": {"name": "demo", "id": "demo"},
            "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "architecture": architecture, "n_latents": 160,
            "d_model": 256, "k": 12, "normalize": "layer_norm", "created": 1_700_000_000.0, "metrics": METRICS,
            "run": "train-1", "training": {"text": "stdlib", "tokens": 1_500_000, "seconds": 80.0},
            "threshold": {"trained": 0.6, "calibrated": 0.62} if architecture == "batch_topk" else None})
    run = RunFolder(workspace.run("train-1"))
    run.create("train", {})
    for step in range(1, 6):
        run.append_progress({"tokens": step * 1000, "fvu": 1 / step, "l0": 12.0, "dead": 0.0})
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    return client
