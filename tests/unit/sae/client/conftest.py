"""A running program on a socket, with one browsable SAE before a made-up worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from app.access import accounts, tokens
from app.cli import _listen, server_config
from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker

SAE = "demo/2-one"
N_LATENTS = 60


@dataclass(frozen=True)
class Served:
    """A running program: its address, a token with every scope, and its state."""

    url: str
    token: str
    app: FastAPI


@contextmanager
def running(settings: Settings) -> Iterator[FastAPI]:
    """Run the program on a free port, named in `app.state.url`, in a thread of its own."""
    app = create_app(settings, supervise=False)
    listener = _listen("127.0.0.1", 0)
    app.state.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(server_config(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield app
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


def make_token(app: FastAPI, *scopes: str) -> str:
    """Make a token of an administrator."""
    with app.state.sessions() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        return tokens.make_token(db, user, "test", scopes, None)


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = Settings(
        home=tmp_path_factory.mktemp("served"), demo=False, database_url="", steers_per_minute=1e6)
    write_sae(settings.workspace, SAE, n_latents=N_LATENTS)
    path: Path = settings.home / "builds" / SAE / "build-1.duckdb"
    path.parent.mkdir(parents=True)
    make_build(path, sae_id=SAE, n_latents=N_LATENTS)
    with running(settings) as app:
        app.state.worker = FakeWorker()
        app.state.cached_requests = CachedRequests(app.state.worker)
        app.state.steering._worker = app.state.worker
        yield Served(app.state.url, make_token(app, "admin"), app)
