"""Middleware that dispatches requests for read-only pages to the page workers while the server is busy."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.page_workers.pool import PageWorkerPool
from app.web.turns import Turns, address_of


class DispatchToPageWorkers:
    """Middleware that sends a request to `app.state.page_workers` if it matches a route of `reads`.

    The first of `routes` that matches decides.  The state is None if there are no page workers.  A request that comes
    alone is answered in this process, because another process would only add the cost of the transfer.  So is one that
    no page worker can answer, but one after the other: threads that render at once would keep this process, through
    which everything goes, from its other work.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute], reads: Sequence[APIRoute]) -> None:
        self.app, self._routes, self._reads = app, routes, {id(route) for route in reads}
        self._busy = 0
        self._here = Turns([None])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_get = scope["type"] == "http" and scope["method"] == "GET"
        page_workers: PageWorkerPool | None = scope["app"].state.page_workers if is_get else None
        route = self._route(scope["path"]) if page_workers is not None else None
        if page_workers is None or route is None:
            await self.app(scope, receive, send)
            return
        self._busy += 1
        try:
            if self._busy == 1:
                await self.app(scope, receive, send)
                return
            answer = await page_workers.ask(scope)
            if answer is None:
                await self._answer_here(scope, receive, send)
                return
            scope["route"] = route  # the metrics count the request under this route
            status, headers, body = answer
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._busy -= 1

    async def _answer_here(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Render the page in this process, and send it when the next one may be rendered: its reader may be slow."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._here.borrow(address_of(scope))
        try:
            await self.app(scope, receive, keep)
        finally:
            self._here.give(None)
        for message in messages:
            await send(message)

    def _route(self, path: str) -> APIRoute | None:
        """Return the route that matches this path, if it is read-only."""
        if path.startswith("/static/"):
            return None
        for route in self._routes:
            if "GET" in (route.methods or ()) and route.path_regex.match(path):
                return route if id(route) in self._reads else None
        return None
