"""Tests of steering runs whose result cannot be stored: the text stays on the page and the place is free again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.worker import steering_runs
from tests.unit.app.pages.steer.lab import events_of, fields, made


@contextmanager
def failing(client: TestClient, begins: str, words: str) -> Iterator[None]:
    """Let the database refuse statements that begin like this."""
    def refuse(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(begins):
            raise OperationalError(statement, {}, sqlite3.OperationalError(words))

    engine = client.app.state.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", refuse)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering_runs, "STORE_AFTER_S", (0.01, 0.01))
    monkeypatch.setattr(steering_runs, "STORE_LATER_S", 0.05)


@pytest.mark.parametrize(("words", "said"), [
    ("database or disk is full", "the disk is full"), ("database is locked", "the database is locked by another")])
def test_a_result_that_cannot_be_stored_stays_on_its_page(
    browser: TestClient, soon: None, words: str, said: str
) -> None:
    steering = browser.app.state.steering  # type: ignore[attr-defined]
    with failing(browser, "UPDATE steer_runs", words):
        place = made(browser)
        events = events_of(browser, place)  # the stream ends
        page = browser.get(place)
        assert not steering._live, "its place is free"
        assert "This result is not stored" in page.text
        assert said in page.text
        run = browser.get(f"{place}.json").json()
        assert run["state"] == "succeeded"
        assert run["text"]["steered"]
        assert any("This result is not stored" in html for name, html in events if name == "status")
        assert len({browser.get(made(browser)).status_code for _ in range(3)}) == 1
    deadline = time.monotonic() + 30
    while steering._unstored:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stored = browser.get(f"{place}.json").json()
    assert (stored["state"], stored["text"], stored["unstored"]) == ("succeeded", run["text"], "")
    assert "not stored" not in browser.get(place).text


@pytest.mark.parametrize(("words", "status", "said"), [
    ("database or disk is full", 507, "The disk is full: nothing was stored."),
    ("database is locked", 503, "The database is locked by another program: nothing was stored."),
    ("attempt to write a readonly database", 503, "The database is read-only: nothing was stored."),
    ("unable to open database file", 503, "The database cannot be reached: nothing was stored.")])
def test_a_run_that_cannot_be_stored_at_all_is_not_started(
    browser: TestClient, words: str, status: int, said: str
) -> None:
    with failing(browser, "INSERT INTO steer_runs", words):
        for headers in ({}, {"HX-Request": "true"}, {"Accept": "application/json"}):
            answer = browser.post("/steer", data=fields(), headers=headers)
            assert answer.status_code == status
            assert said in answer.text
            assert ("retry-after" in answer.headers) == (status == 503)
    assert browser.post("/steer", data=fields()).status_code == 303
