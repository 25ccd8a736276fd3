"""A program with two SAEs that read texts, before a made-up worker, and an editor."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.worker.cached_requests import CachedRequests
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.system.browsers import add_user, sign_in


@pytest.fixture
def editor(browsable: TestClient) -> TestClient:
    state = browsable.app.state  # type: ignore[attr-defined]
    state.worker = FakeWorker()
    state.cached_requests = CachedRequests(state.worker)
    add_user(browsable, "eve")
    return sign_in(browsable, "eve")
