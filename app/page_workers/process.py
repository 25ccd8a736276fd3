"""The process of a page worker, which renders read-only pages, one after another, for the server.

    python -m app.page_workers.process <file descriptor>

The file descriptor is a socket.  Each frame is its length in 4 bytes and its content.  The first frame has the
settings; an empty frame answers it once everything is open.  Every further frame has a request's scope, and its answer
has status, headers and body.  The process ends when the socket closes, and so when the server ends.
"""

from __future__ import annotations

import asyncio
import logging
import marshal
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from itertools import islice
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.types import Message

from app.access.middleware import SecurityHeaders
from app.library.stores import open_stores
from app.pages.dependencies import current_user
from app.pages.explore import home, l0, latent, latents, map, overview, search
from app.settings import Settings
from app.web import errors, logs
from app.web.compression import COMPRESS
from app.web.gc_tuning import rare_collections

MODULES = (home, search, l0, latents, map, overview, latent)  # their GET routes need only what `open_stores` opens

log = logging.getLogger(__name__)

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def create_read_only_app(settings: Settings) -> FastAPI:
    """Make an application with the read-only pages."""
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            open_stores(app.state, settings, stack)
            yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
                  dependencies=[Depends(current_user)],
                  middleware=[Middleware(logs.RequestIds), Middleware(SecurityHeaders), COMPRESS])
    errors.install(app, current_user)
    for module in MODULES:
        app.include_router(module.router)
    return app


def scope_frame(scope: Any) -> bytes:
    """Encode the parts of a GET request's scope that a page worker needs."""
    names = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
    values = {name: scope[name] for name in names if name in scope}
    pairs = [tuple(pair) for pair in scope["headers"]]
    return marshal.dumps(values | {"headers": pairs, "client": scope.get("client"), "server": scope.get("server")})


async def answer(app: FastAPI, scope: dict[str, Any]) -> Answer:
    """Return status, headers and body of the answer to a request without a body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app(scope | {"asgi": {"version": "3.0"}}, receive, send)
    except Exception:  # Starlette raises it again after it has sent the error page
        log.exception("a page could not be rendered: %s", scope["path"])
    body = b"".join([message.get("body", b"") for message in sent])
    headers = [(bytes(name), bytes(value)) for name, value in sent[0]["headers"]]
    return sent[0]["status"], headers, body


async def warm_up(app: FastAPI) -> None:
    """Render the home page and a latent's page, so that no reader waits for the templates and imports of the first."""
    indexed = (sae.id for sae in app.state.catalog.list_saes() if sae.current_build)
    for path in ("/", *(f"/{sae_id}/0" for sae_id in islice(indexed, 1))):
        await answer(app, {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(b"host", b"localhost")],
            "client": None, "server": None})


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the content of the next frame.  Raises IncompleteReadError at the end of the stream."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def frame(content: bytes) -> bytes:
    """Prefix `content` with its length (4 bytes, big-endian)."""
    return len(content).to_bytes(4, "big") + content


async def serve(connection: socket.socket) -> None:
    """Answer the requests that come over the socket until it closes."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        settings = Settings.model_validate_json(await read_frame(reader))
        logs.configure(settings.log)
        app = create_read_only_app(settings)
        async with app.router.lifespan_context(app):
            await warm_up(app)
            writer.write(frame(b""))
            while True:
                scope = marshal.loads(await read_frame(reader))
                writer.write(frame(marshal.dumps(await answer(app, scope))))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


if __name__ == "__main__":
    logs.configure("text")  # until the settings have come
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process ends with the server
    with rare_collections():
        asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
