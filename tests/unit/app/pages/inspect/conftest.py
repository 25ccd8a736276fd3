"""A program with two SAEs to inspect texts with, before a made-up worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import OTHER, SAE


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(home=tmp_path_factory.mktemp("inspect"), demo=False, database_url="")
    for sae_id in (SAE, OTHER):
        write_sae(settings.workspace, sae_id, n_latents=60)
        path = settings.home / "builds" / sae_id / "build-1.duckdb"
        path.parent.mkdir(parents=True)
        make_build(path, sae_id=sae_id, n_latents=60)
    return settings.home


@pytest.fixture
def browser(home: Path) -> Iterator[TestClient]:
    settings = Settings(home=home, demo=False, database_url="", steers_per_minute=1e6)
    app = create_app(settings, supervise=False)
    with TestClient(app, follow_redirects=False) as client:
        app.state.worker = FakeWorker()
        app.state.cached_requests = CachedRequests(app.state.worker)
        yield client


@pytest.fixture
def worker(browser: TestClient) -> FakeWorker:
    found: FakeWorker = browser.app.state.worker  # type: ignore[attr-defined]
    return found
