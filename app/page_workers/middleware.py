"""Sends requests for pages that only read to the readers, where the server has other work at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.page_workers.pool import PageWorkerPool


class DispatchToPageWorkers:
    """Asks `app.state.readers` (None: there are none) where a route of `reads` is the first of `routes` to match.

    A request that comes alone is answered here: another process would only add its way there and back.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute], reads: Sequence[APIRoute]) -> None:
        self.app, self._routes, self._reads = app, routes, {id(route) for route in reads}
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "GET"
        readers: PageWorkerPool | None = scope["app"].state.readers if asked else None
        route = self._route(scope["path"]) if readers is not None else None
        if readers is None or route is None:
            await self.app(scope, receive, send)
            return
        self._busy += 1
        try:
            answer = await readers.ask(scope) if self._busy > 1 else None
            if answer is None:
                await self.app(scope, receive, send)
                return
            scope["route"] = route  # what the request is counted under
            status, headers, body = answer
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._busy -= 1

    def _route(self, path: str) -> APIRoute | None:
        """The route that will take this address, if it only reads."""
        if path.startswith("/static/"):
            return None
        for route in self._routes:
            if "GET" in (route.methods or ()) and route.path_regex.match(path):
                return route if id(route) in self._reads else None
        return None
