"""The server's log, as text or as one JSON object per line, and the id of the request that a line belongs to."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
_CHATTY = ("alembic", "httpx", "httpcore")
_USABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

request_id: ContextVar[str] = ContextVar("request_id", default="")
log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A formatter that writes each record as one line of JSON: time, level, logger, message, request, error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if found := getattr(record, "request", "") or request_id.get():
            line["request"] = found
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)

    converter = staticmethod(time.gmtime)


def configure(form: str) -> None:
    """Send the log to stderr, as "text" or as "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)


class RequestIds:
    """Middleware that gives every request an id, in the log's lines and in the answer's header `X-Request-ID`.

    A usable id that a proxy sent is kept.  With `lines`, each request is logged when it has been answered.
    """

    def __init__(self, app: ASGIApp, lines: bool = False) -> None:
        self.app, self._lines = app, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        own = given if _USABLE.fullmatch(given) else secrets.token_hex(8)
        if own != given:  # a page worker finds it in the headers
            others = [(name, value) for name, value in scope["headers"] if name != HEADER.lower().encode()]
            scope["headers"] = [*others, (HEADER.lower().encode(), own.encode())]
        token, began, status = request_id.set(own), time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = own
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            status = status or 500  # Starlette sends this answer outside of all middleware
            raise
        finally:
            if self._lines:
                log.info("%s %s %d", scope["method"], scope["path"], status, extra={"facts": {
                    "method": scope["method"], "path": scope["path"], "status": status,
                    "seconds": round(time.perf_counter() - began, 4)}})
            request_id.reset(token)
