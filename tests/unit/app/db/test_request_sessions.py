"""Tests of the sessions of requests: many that come at once never wait for each other forever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import QueuePool, text

from app.db.engine import SessionFactory, make_engine, make_session_factory
from app.db.request_sessions import RequestSessions
from app.pages.dependencies import RequestSessionsDep, SessionDep

MANY = 120  # three times as many as threads and places


@pytest.fixture
def sessions(tmp_path: Any) -> SessionFactory:
    return make_session_factory(make_engine(f"sqlite:///{tmp_path}/app.db"))


def connections(sessions: SessionFactory) -> int:
    """Return the number of connections that are in use."""
    pool = sessions.kw["bind"].pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


def answers(sessions: SessionFactory, handler: Callable[..., Any], n: int) -> list[int]:
    """Return the status of each of `n` answers to requests that come at the same time."""
    app = FastAPI()
    app.state.sessions, app.state.request_sessions = sessions, RequestSessions(sessions)
    app.get("/")(handler)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [answer.status_code for answer in await asyncio.gather(*(client.get("/") for _ in range(n)))]

    return asyncio.run(asyncio.wait_for(ask(), 20))


def read(db: SessionDep) -> Any:
    time.sleep(0.002)
    return db.scalar(text("SELECT 1"))


def test_many_requests_with_several_steps_are_all_answered(sessions: SessionFactory) -> None:
    def handler(first: Annotated[int, Depends(read)], db: SessionDep) -> int:
        return first + int(read(db))

    assert answers(sessions, handler, MANY) == [200] * MANY
    assert connections(sessions) == 0


def test_a_request_that_waits_for_something_else_holds_no_connection(sessions: SessionFactory) -> None:
    held, waiting, every = [], [0], [asyncio.Event()]

    async def handler(first: Annotated[int, Depends(read)], db: SessionDep, places: RequestSessionsDep) -> int:
        async with places.pause(db):
            waiting[0] += 1
            if waiting[0] == MANY:  # only reached if those that wait leave their places
                held.append(connections(sessions))
                every[0].set()
            await every[0].wait()
        return int(await asyncio.to_thread(read, db))

    assert answers(sessions, handler, MANY) == [200] * MANY
    assert held == [0]
    assert connections(sessions) == 0


def test_an_answer_that_is_still_being_sent_holds_no_connection(sessions: SessionFactory) -> None:
    held = []

    def handler(db: SessionDep) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            held.append(connections(sessions))
            yield "text"

        read(db)
        return StreamingResponse(pieces())

    assert answers(sessions, handler, 1) == [200]
    assert held == [0]


async def left(places: RequestSessions) -> None:
    async with places.open() as db:
        await places.leave(db)


async def paused(places: RequestSessions) -> None:
    async with places.open() as db, places.pause(db):
        pass


async def failed(places: RequestSessions) -> None:
    async with places.open():
        raise ZeroDivisionError


async def cancelled(places: RequestSessions) -> None:
    """Be cancelled while the place of a pause is waited for."""
    async def pause() -> None:
        async with places.open() as db, places.pause(db):
            begun.set()
            await go_on.wait()

    begun, go_on = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(pause())
    await begun.wait()
    async with places.open():
        go_on.set()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("use", [left, paused, failed, cancelled])
def test_a_place_is_given_back_once(
    sessions: SessionFactory, use: Callable[[RequestSessions], Awaitable[None]]
) -> None:
    async def run() -> None:
        places = RequestSessions(sessions, places=1)
        await asyncio.gather(use(places), return_exceptions=True)
        async with asyncio.timeout(5), places.open():
            second = asyncio.create_task(left(places))
            await asyncio.sleep(0.01)
            assert not second.done(), "there is more than one place"
        await second

    asyncio.run(run())
