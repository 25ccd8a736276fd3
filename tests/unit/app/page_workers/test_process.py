"""Tests of a page worker without its process: frames, scopes, answers, and its pages."""

from __future__ import annotations

import asyncio
import marshal

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.page_workers.process import MODULES, answer, create_read_only_app, frame, read_frame, scope_frame, warm_up
from app.settings import Settings
from tests.unit.app.page_workers.test_pool import scope


@pytest.mark.parametrize("content", [b"", b"x", b"\x00" * 70_000])
def test_a_frame_is_its_length_and_its_content(content: bytes) -> None:
    async def read() -> tuple[bytes, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(frame(content) + frame(b"next"))
        reader.feed_eof()
        first, second = await read_frame(reader), await read_frame(reader)
        with pytest.raises(asyncio.IncompleteReadError):
            await read_frame(reader)
        return first, second

    assert asyncio.run(read()) == (content, b"next")
    assert len(frame(content)) == len(content) + 4


def test_a_torn_frame_is_no_frame() -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(frame(b"whole")[:-1])
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError):
            await read_frame(reader)

    asyncio.run(read())


def test_a_scope_loses_what_another_process_cannot_have() -> None:
    given = scope("/demo/x?sort=max") | {"app": object(), "state": {}, "extensions": {}, "headers": [[b"a", b"b"]]}
    sent = marshal.loads(scope_frame(given))
    assert (sent["path"], sent["query_string"], sent["method"]) == ("/demo/x", b"sort=max", "GET")
    assert sent["headers"] == [(b"a", b"b")]
    assert not {"app", "state", "extensions"} & set(sent)


def test_an_answer_is_status_headers_and_the_whole_body() -> None:
    app = FastAPI()

    @app.get("/page")
    def page() -> dict[str, str]:
        return {"said": "yes"}

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret detail")

    status, headers, body = asyncio.run(answer(app, scope("/page")))
    assert (status, body) == (200, b'{"said":"yes"}')
    assert dict(headers)[b"content-type"] == b"application/json"
    status, _, body = asyncio.run(answer(app, scope("/broken")))
    assert status == 500
    assert b"secret" not in body


def test_every_page_of_a_worker_only_reads(settings: Settings) -> None:
    app = create_read_only_app(settings)
    routes = [route for module in MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    assert {"/", "/{model}/{name}", "/{model}/{name}/latents", "/{model}/{name}/{number}"} <= {r.path for r in routes}
    missing = asyncio.run(_with_stores(app, "/static/none.css"))
    assert missing[0] == 404
    assert b"content-security-policy" in dict(missing[1])


async def _with_stores(app: FastAPI, address: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    async with app.router.lifespan_context(app):
        return await answer(app, scope(address))


def test_a_page_worker_renders_a_page_before_it_is_ready(browsable: TestClient, settings: Settings) -> None:
    app, asked = create_read_only_app(settings), list[str]()

    class Noting:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            asked.append(scope.get("path", ""))

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    asked.append(message["status"])
                await send(message)

            await self.app(scope, receive, noted)

    app.add_middleware(Noting)

    async def go() -> None:
        async with app.router.lifespan_context(app):
            await warm_up(app)

    asyncio.run(go())
    latent = next(path for path in asked if str(path).endswith("/0"))
    assert [path for path in asked if path] == ["/", 200, latent, 200]


def test_a_page_worker_without_saes_is_ready_too(settings: Settings, engine: Engine) -> None:
    app = create_read_only_app(settings)

    async def go() -> None:
        async with app.router.lifespan_context(app):
            await warm_up(app)

    asyncio.run(go())
