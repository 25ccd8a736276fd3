"""Tests of the limit of open event streams."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from app.web.event_streams import BoundedStreams


def test_further_streams_are_refused_until_one_ends() -> None:
    async def go() -> None:
        ends = {name: asyncio.Event() for name in "abcd"}

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
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
        assert await ask("d", "3", "/steer/1") is None, "other pages have no limit"
        ends["a"].set()
        await first
        assert await ask("d", "1") is None, "a place is free again"
        ends["b"].set(), ends["c"].set()
        await asyncio.gather(second, other)
        assert not app._open

    asyncio.run(go())
