"""A limit of event streams that are open at once: each holds a connection and a task while its page is open."""

from __future__ import annotations

from collections import Counter

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.errors import error_response

MOST = 1_000
MOST_OF_ADDRESS = 250


class BoundedStreams:
    """Middleware that refuses further event streams, whose addresses end with `/events`, with status 503.

    A page without its stream shows what there is when it is loaded again.
    """

    def __init__(self, app: ASGIApp, most: int = MOST, most_of_address: int = MOST_OF_ADDRESS) -> None:
        self.app, self._most, self._most_of_address = app, most, most_of_address
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/events"):
            await self.app(scope, receive, send)
            return
        address = str(scope["client"][0]) if scope.get("client") else "?"
        if self._open.total() >= self._most or self._open[address] >= self._most_of_address:
            refusal = error_response(
                Request(scope), 503, "Too many pages are being followed at once; load the page again in a while.",
                headers={"Retry-After": "30"})
            await refusal(scope, receive, send)
            return
        self._open[address] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
