"""A program with two steerable SAEs before a made-up worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from sae.lm.model_info import DEMO_PATH
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import OTHER, SAE


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two SAEs of the embedded model, and one of a model that chats."""
    settings = Settings(home=tmp_path_factory.mktemp("lab"), demo=False, database_url="")
    chatty = settings.home / "chatty"
    shutil.copytree(DEMO_PATH, chatty, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    (chatty / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    for sae_id, model in ((SAE, "demo"), (OTHER, "demo"), ("chatty/2-one", str(chatty))):
        layer = int(sae_id.partition("/")[2][0])
        write_sae(settings.workspace, sae_id, n_latents=60, model={"name": model, "id": sae_id.partition("/")[0]},
                  site={"layer": layer, "hook": f"blocks.{layer}.hook_resid_post"})
        path = settings.home / "builds" / sae_id / "build-1.duckdb"
        path.parent.mkdir(parents=True)
        make_build(path, sae_id=sae_id, n_latents=60)
    return settings.home


@pytest.fixture(scope="package")
def program(home: Path) -> Iterator[TestClient]:
    app = create_app(Settings(home=home, demo=False, database_url="", steers_per_minute=1e6), supervise=False)
    with TestClient(app, follow_redirects=False) as client:
        yield client


@pytest.fixture
def worker(program: TestClient) -> FakeWorker:
    fake = FakeWorker()
    state = program.app.state  # type: ignore[attr-defined]
    state.steering._worker, state.cached_requests = fake, CachedRequests(fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture
def browser(program: TestClient, worker: FakeWorker) -> TestClient:
    return program
