"""Tests of two whole programs on one Postgres database, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.jobs.lock import WorkspaceLock
from app.main import create_app
from app.settings import Settings
from sae.errors import UserError

Pair = tuple[TestClient, TestClient]


@pytest.fixture
def pair(settings: Settings) -> Iterator[Pair]:
    if not settings.several_servers:
        pytest.skip("only servers on Postgres share a workspace")
    rare = settings.model_copy(update={"logins_per_minute": 0.1})
    with TestClient(create_app(rare)) as first, TestClient(create_app(rare)) as second:
        yield first, second


def test_two_servers_share_a_workspace_and_one_supervises(pair: Pair, settings: Settings) -> None:
    seen = [client.get("/readyz") for client in pair]
    assert [answer.status_code for answer in seen] == [200, 200]
    assert [answer.json()["checks"]["supervisor"] for answer in seen] == ["ok", "another server supervises the runs"]
    with pytest.raises(UserError, match="in use by a saescope server"):
        WorkspaceLock(settings.home, "restore")


def test_a_server_that_may_not_supervise_says_so(settings: Settings) -> None:
    if not settings.several_servers:
        pytest.skip("only servers on Postgres share a workspace")
    web_only = settings.model_copy(update={"supervisor": False})
    with TestClient(create_app(web_only)) as client:
        assert client.get("/readyz").json()["checks"]["supervisor"] == "another server supervises the runs"


def test_guesses_at_a_password_count_over_both(pair: Pair) -> None:
    guess = {"name": "ada", "password": "wrong"}
    assert [client.post("/login", data=guess).status_code for client in pair] == [401, 429]
