"""Tests of the dispatch: read-only requests go to the page workers only while another one is being answered."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from app.page_workers.middleware import DispatchToPageWorkers


class FakePageWorkers:
    """A pool that answers with 203, or has no free page worker."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.there = True

    async def ask(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
        self.asked.append(scope["path"])
        return (203, [(b"x-by", b"page worker")], b"read") if self.there else None


class Program:
    """The server's own app, which answers once `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"own"})


def router(*paths: str) -> list[APIRoute]:
    made = APIRouter()
    for path in paths:
        made.add_api_route(path, lambda: None, methods=["GET"])
    made.add_api_route("/{model}/{name}/label", lambda: None, methods=["POST"])
    return [route for route in made.routes if isinstance(route, APIRoute)]


async def ask(
    app: DispatchToPageWorkers, page_workers: FakePageWorkers | None, path: str, method: str = "GET",
) -> tuple[int, bytes, APIRoute | None]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("a request without a body was read")

    app_of_scope = SimpleNamespace(state=SimpleNamespace(page_workers=page_workers))
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "app": app_of_scope}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"], scope.get("route")


@pytest.mark.parametrize(("path", "method", "reads"), [
    ("/demo/sae/7", "GET", True), ("/", "GET", True), ("/demo/sae/7", "POST", False), ("/runs/7", "GET", False),
    ("/demo/sae/7/label", "POST", False), ("/demo/sae/7.npy", "GET", False), ("/static/css/a.css", "GET", False),
    ("/nothing/of/any/route/at/all", "GET", False),
])
def test_reads_go_to_the_page_workers_while_the_server_is_busy(path: str, method: str, reads: bool) -> None:
    own, pages = router("/runs/{run}", "/{model}/{name}/{number}.npy"), router("/", "/{m}/{n}", "/{m}/{n}/{number}")

    async def go() -> None:
        page_workers, program = FakePageWorkers(), Program()
        app = DispatchToPageWorkers(program, [*own, *pages], pages)
        first = asyncio.create_task(ask(app, page_workers, "/demo/sae/1"))
        await asyncio.sleep(0)
        assert (program.paths, page_workers.asked) == (["/demo/sae/1"], [])  # it came alone
        second = asyncio.create_task(ask(app, page_workers, path, method))
        await asyncio.sleep(0)
        assert page_workers.asked == [path] * reads
        program.go.set()
        status, body, route = await second
        assert (status, body) == ((203, b"read") if reads else (200, b"own"))
        assert (route is not None) == reads
        assert route is None or route.path_regex.match(path)
        assert (await first)[:2] == (200, b"own")
        assert (await ask(app, page_workers, path, method))[0] == 200  # alone again

    asyncio.run(go())


def test_the_server_answers_if_no_page_worker_does() -> None:
    pages = router("/{m}/{n}")

    async def go() -> None:
        page_workers, program = FakePageWorkers(), Program()
        page_workers.there = False
        app = DispatchToPageWorkers(program, pages, pages)
        three = [asyncio.create_task(ask(app, *given))
                 for given in ((page_workers, "/a/b"), (page_workers, "/c/d"), (None, "/e/f"))]
        await asyncio.sleep(0.01)
        program.go.set()
        assert [answer[:2] for answer in await asyncio.gather(*three)] == [(200, b"own")] * 3
        assert page_workers.asked == ["/c/d"]

    asyncio.run(go())


def test_pages_that_no_page_worker_renders_are_rendered_one_after_the_other() -> None:
    """Nor does a reader that is slow to take its page keep the next one from being rendered."""
    pages = router("/{m}/{n}")

    async def go() -> None:
        page_workers, program = FakePageWorkers(), Program()
        page_workers.there = False
        app = DispatchToPageWorkers(program, pages, pages)
        slow, taken = asyncio.Event(), []

        async def send(message: Message) -> None:
            taken.append(message["type"])
            await slow.wait()

        def asked(path: str) -> dict[str, Any]:
            state = SimpleNamespace(page_workers=page_workers)
            return {"type": "http", "method": "GET", "path": path, "app": SimpleNamespace(state=state)}

        alone = asyncio.create_task(ask(app, page_workers, "/a/alone"))
        tasks = [asyncio.create_task(app(asked(path), None, send)) for path in ("/a/1", "/a/2")]  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert program.paths == ["/a/alone", "/a/1"], "the second waits for its turn"
        program.go.set()
        await asyncio.sleep(0.01)
        assert program.paths == ["/a/alone", "/a/1", "/a/2"]
        assert taken == ["http.response.start"] * 2, "neither reader has taken its page yet"
        slow.set()
        await asyncio.gather(alone, *tasks)

    asyncio.run(go())
