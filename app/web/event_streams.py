"""Limits of event streams: how many are open at once, and how many are being opened.

Each holds a connection and a task while its page is open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import cast

from fastapi.sse import KEEPALIVE_COMMENT
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.errors import error_response
from app.web.turns import Turns, address_of

MOST = 1_000
MOST_OF_ADDRESS = 250
PING_S = 15.0  # without an event, before a comment that keeps proxies from closing the connection
OPENING = 2  # at once; threads that open more of them would only keep the others waiting


def event_stream(events: AsyncGenerator[bytes]) -> StreamingResponse:
    """Return a response that streams encoded server-sent events.

    FastAPI's own takes three tasks and two queues for each client, and encodes every event for each.
    """
    return _EventStream(_with_pings(events), media_type="text/event-stream", headers={
        "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


class _EventStream(StreamingResponse):
    """A response that ends its events at once when its client leaves, and not when the garbage is collected."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(cast(AsyncGenerator[bytes], self.body_iterator)):
            await super().stream_response(send)


async def _with_pings(events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the events, none of which is empty, and a comment after each while without one."""
    pending = asyncio.ensure_future(anext(events, b""))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=PING_S)
            if not done:
                yield KEEPALIVE_COMMENT
            elif event := pending.result():
                yield event
                pending = asyncio.ensure_future(anext(events, b""))
            else:
                return
    finally:
        pending.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await pending
        await events.aclose()


class BoundedStreams:
    """Middleware that refuses further event streams, whose addresses end with `/events`, with status 503.

    A page without its stream shows what there is when it is loaded again.  Addresses take turns in opening streams, so
    that hundreds from one do not delay the pages of the others.
    """

    def __init__(self, app: ASGIApp, most: int = MOST, most_of_address: int = MOST_OF_ADDRESS) -> None:
        self.app, self._most, self._most_of_address = app, most, most_of_address
        self._open: Counter[str] = Counter()
        self._opening = Turns([None] * OPENING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/events"):
            await self.app(scope, receive, send)
            return
        address = address_of(scope)
        if self._open.total() >= self._most or self._open[address] >= self._most_of_address:
            refusal = error_response(
                Request(scope), 503, "Too many pages are being followed at once; load the page again in a while.",
                headers={"Retry-After": "30"})
            await refusal(scope, receive, send)
            return
        self._open[address] += 1
        try:
            await self._open_in_turn(address, scope, receive, send)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    async def _open_in_turn(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; its place among those that are being opened is free when the answer begins."""
        await self._opening.borrow(address)
        opening = True

        def opened() -> None:
            nonlocal opening
            if opening:
                opening = False
                self._opening.give(None)

        async def begin(message: Message) -> None:
            opened()
            await send(message)

        try:
            await self.app(scope, receive, begin)
        finally:
            opened()
