"""A reader: answers requests for pages that only read, one after the other, over a socket from the server.

    python -m app.page_workers.process <file descriptor>

Frames are 4 bytes of length and as many of content.  The first is the settings, answered by an empty one
once all is open; then each is a request's scope, answered by status, headers and body.  It ends when the
socket does, and so when the server does.
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
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.types import Message

from app.access.middleware import SecurityHeaders
from app.db.engine import Changes, make_engine, make_session_factory
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.pages.dependencies import current_user
from app.pages.explore import home, l0, latent, latents, overview
from app.settings import Settings
from app.web import errors
from app.web.compression import COMPRESS
from app.web.gc_tuning import rare_collections

READS = (home, l0, latents, overview, latent)  # modules whose GET routes need no more than what `_open` opens

log = logging.getLogger(__name__)

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def create_reader(settings: Settings) -> FastAPI:
    """The part of the program that only reads."""
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            _open(app, settings, stack)
            yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
                  dependencies=[Depends(current_user)], middleware=[Middleware(SecurityHeaders), COMPRESS])
    errors.install(app)
    for module in READS:
        app.include_router(module.router)
    return app


def _open(app: FastAPI, settings: Settings, stack: ExitStack) -> None:
    engine = make_engine(settings.url)
    stack.callback(engine.dispose)
    changes = Changes(engine)
    stack.callback(changes.close)
    state = app.state
    state.settings, state.sessions = settings, make_session_factory(engine)
    state.catalog = Catalog(settings.workspace, state.sessions, changes)
    state.builds = Builds(settings.workspace)
    stack.callback(state.builds.close)


def scope_frame(scope: Any) -> bytes:
    """What of a GET request's scope a reader needs."""
    names = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
    values = {name: scope[name] for name in names if name in scope}
    pairs = [tuple(pair) for pair in scope["headers"]]
    return marshal.dumps(values | {"headers": pairs, "client": scope.get("client"), "server": scope.get("server")})


async def answer(app: FastAPI, scope: dict[str, Any]) -> Answer:
    """Status, headers and body of a request without a body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app(scope | {"asgi": {"version": "3.0"}}, receive, send)
    except Exception:  # the error page is sent before it is raised
        log.exception("a page could not be made: %s", scope["path"])
    body = b"".join([message.get("body", b"") for message in sent])
    headers = [(bytes(name), bytes(value)) for name, value in sent[0]["headers"]]
    return sent[0]["status"], headers, body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame.  Raises IncompleteReadError at the end of the stream."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def frame(content: bytes) -> bytes:
    """As it goes over the socket."""
    return len(content).to_bytes(4, "big") + content


async def serve(connection: socket.socket) -> None:
    """Answer what comes over the socket until it ends."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        app = create_reader(Settings.model_validate_json(await read_frame(reader)))
        async with app.router.lifespan_context(app):
            writer.write(frame(b""))
            while True:
                scope = marshal.loads(await read_frame(reader))
                writer.write(frame(marshal.dumps(await answer(app, scope))))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server's end ends it
    with rare_collections():
        asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
