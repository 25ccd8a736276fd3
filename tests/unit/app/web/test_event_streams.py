"""Tests of the limit of open event streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.web import event_streams
from app.web.event_streams import OPENING, BoundedStreams, event_stream


def test_a_stream_has_pings_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "PING_S", 0.02)
    ended: list[str] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: one\n\n"
            await asyncio.sleep(0.05)
            yield b"data: two\n\n"
        finally:
            ended.append("all")

    async def read() -> list[bytes]:
        response = event_stream(events())
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        return [bytes(chunk) async for chunk in response.body_iterator]  # type: ignore[arg-type]

    chunks = asyncio.run(read())
    assert (chunks[0], chunks[-1], ended) == (b"data: one\n\n", b"data: two\n\n", ["all"])
    assert set(chunks[1:-1]) == {b": ping\n\n"}


@pytest.mark.parametrize("waits", [True, False])
def test_a_stream_that_nobody_reads_any_more_ends_its_events(waits: bool) -> None:
    ended: list[str] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: one\n\n"
            await asyncio.sleep(60 if waits else 0)
            yield b"data: two\n\n"
            await asyncio.sleep(60)
        finally:
            ended.append("all")

    async def leave() -> None:
        async def send(message: Message) -> None:
            if message.get("body") == b"data: two\n\n":
                await asyncio.sleep(60)  # the client does not take it

        scope: Any = {"type": "http", "asgi": {"spec_version": "2.4"}}
        task = asyncio.create_task(event_stream(events())(scope, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert ended == ["all"]

    asyncio.run(leave())


def test_further_streams_are_refused_until_one_ends() -> None:
    async def go() -> None:
        ends = {name: asyncio.Event() for name in "abcd"}

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await ends[scope["query_string"].decode()].wait()

        app = BoundedStreams(stream, most=3, most_of_address=2)

        async def ask(name: str, address: str, path: str = "/steer/1/events") -> int | None:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(message)

            scope: dict[str, Any] = {
                "type": "http", "path": path, "query_string": name.encode(), "client": (address, 1), "method": "GET",
                "headers": [(b"accept", b"application/json")]}
            await app(scope, None, send)  # type: ignore[arg-type]
            return sent[0]["status"] if sent else None

        first, second = asyncio.create_task(ask("a", "1")), asyncio.create_task(ask("b", "1"))
        await asyncio.sleep(0)
        assert await ask("c", "1") == 503, "two of an address"
        other = asyncio.create_task(ask("c", "2"))
        await asyncio.sleep(0)
        assert await ask("d", "3") == 503, "three in all"
        ends["d"].set()
        assert await ask("d", "3", "/steer/1") == 200, "other pages have no limit"
        ends["a"].set()
        await first
        assert await ask("d", "1") == 200, "a place is free again"
        ends["b"].set(), ends["c"].set()
        await asyncio.gather(second, other)
        assert not app._open

    asyncio.run(go())


def test_addresses_take_turns_in_opening_streams() -> None:
    """A hundred streams of one address are opened two at a time, and another address waits for one of them."""
    opened: list[str] = []

    async def go() -> None:
        may_open = asyncio.Semaphore(0)

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            await may_open.acquire()
            opened.append(scope["client"][0])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.Event().wait()  # it stays open

        async def send(message: Message) -> None:
            return None

        app = BoundedStreams(stream)
        tasks = [asyncio.create_task(app(
            {"type": "http", "path": "/steer/1/events", "client": (address, 1)}, None, send))  # type: ignore[arg-type]
            for address in ["many"] * 100 + ["one"]]
        await asyncio.sleep(0)
        for _ in range(10):
            may_open.release()
            for _ in range(5):
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(go())
    assert len(opened) == 10
    assert opened.index("one") <= OPENING + 1
