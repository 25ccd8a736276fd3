"""Tests of what handlers depend on: the database session, and who is signed in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException, Request
from sqlalchemy import event, text

from app.access import accounts
from app.db.engine import SessionFactory
from app.db.request_sessions import RequestSessions
from app.db.tables import User
from app.pages.dependencies import admin_user, current_user, get_session, signed_in_user
from app.settings import Settings
from app.web.errors import SignInNeeded


def request(sessions: SessionFactory, cookie: str = "") -> Request:
    """Make a request to a program that everybody may use."""
    app = SimpleNamespace(state=SimpleNamespace(
        sessions=sessions, request_sessions=RequestSessions(sessions), settings=Settings()))
    headers = [(b"cookie", f"{accounts.COOKIE}={cookie}".encode())] if cookie else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers, "app": app,
                    "state": {}})


def test_what_was_not_committed_is_rolled_back(sessions: SessionFactory) -> None:
    async def use() -> None:
        made: Any = get_session(request(sessions))
        db = await anext(made)
        db.add(User(name="kept"))
        db.commit()
        db.add(User(name="lost"))
        db.flush()
        with pytest.raises(StopAsyncIteration):
            await anext(made)

    asyncio.run(use())
    with sessions() as db:
        assert [user.name for user in db.query(User)] == ["kept"]


def test_without_a_cookie_the_database_is_not_asked(sessions: SessionFactory) -> None:
    asked: list[str] = []
    with sessions() as db:
        event.listen(db.get_bind(), "before_cursor_execute", lambda *given: asked.append(given[2]))
        db.execute(text("SELECT 1"))
    given = request(sessions)
    assert asyncio.run(current_user(given)) is None
    assert asked == ["SELECT 1"]
    assert given.state.user is None


def test_a_cookie_names_its_user_who_stays_readable(sessions: SessionFactory, settings: Settings) -> None:
    with sessions() as db:
        secret = accounts.open_session(db, accounts.add_user(db, "ada", "correct horse"), settings)
    given = request(sessions, secret)
    user = asyncio.run(current_user(given))
    assert user is not None
    assert (user.name, given.state.user.name) == ("ada", "ada")
    assert asyncio.run(current_user(request(sessions, "guessed"))) is None


def test_only_administrators_pass_where_they_are_needed(sessions: SessionFactory) -> None:
    ada, eve = User(name="ada", is_admin=True), User(name="eve", is_admin=False)
    by_cookie, by_token = request(sessions), request(sessions)
    by_cookie.state.scopes, by_token.state.scopes = None, frozenset({"read"})
    assert asyncio.run(admin_user(by_cookie, ada)) is ada
    assert asyncio.run(signed_in_user(eve)) is eve
    with pytest.raises(HTTPException, match="eve is not an administrator") as caught:
        asyncio.run(admin_user(by_cookie, eve))
    assert caught.value.status_code == 403
    with pytest.raises(HTTPException, match="no scope"):
        asyncio.run(admin_user(by_token, ada))
    with pytest.raises(SignInNeeded):
        asyncio.run(admin_user(by_cookie, None))
    with pytest.raises(SignInNeeded):
        asyncio.run(signed_in_user(None))
