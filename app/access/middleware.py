"""Middleware in front of every handler: headers, known hosts, same-origin rule, rate limits.

It is pure ASGI, so that event streams pass through untouched.  FastAPI itself limits the size of a request body
(`max_body_size`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.tables import User
from app.web.errors import error_response

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# For a page that any site may show in a frame: nothing in it acts.
CSP_EMBED = CSP.replace("frame-ancestors 'none'", "frame-ancestors *").replace("'self'; frame", "'none'; frame")
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Pages that no browser may keep: after signing out, Back must not show them.
PRIVATE = frozenset({"admin", "account", "login"})
_HEAD = "saescope.head"


class SecurityHeaders:
    """Middleware that adds the headers above to every answer, errors and static files included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if first_segment(scope["path"]) in PRIVATE:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class KnownHosts:
    """Middleware that refuses requests to a host name that is not ours.

    Without it, a web page whose name is made to resolve to a reader's own machine ("DNS rebinding") could read and
    steer the instance that runs there, because to the browser both are the same origin.  Starlette's middleware
    decides; its refusal is replaced by one that names the setting.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            scope["saescope.known_host"] = True
            await app(scope, receive, send)

        self._checked = TrustedHostMiddleware(known, hosts, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_refuse(message: Message) -> None:
            if "saescope.known_host" in scope:
                await send(message)
            elif message["type"] == "http.response.start":
                host = Headers(scope=scope).get("host", "")
                refusal = error_response(
                    Request(scope), 400, f"{host[:100]!r} is not a name of this server. If it is, name it in "
                    "SAESCOPE_ALLOWED_HOSTS and start the server again.")
                await SecurityHeaders(refusal)(scope, receive, send)

        await self._checked(scope, receive, send_or_refuse)


class HeadAsGet:
    """Middleware that answers HEAD as GET without the body, since FastAPI's routes accept only GET.

    A stream ends after its headers, as if the client had gone away, so that nothing is made only to be dropped.
    A handler whose GET changes something asks `is_head` first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        answered = False

        async def send_without_body(message: Message) -> None:
            nonlocal answered
            if answered:
                raise OSError("only the headers were asked for")
            if message["type"] == "http.response.body":
                answered = True
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            await self.app({**scope, "method": "GET", _HEAD: True}, receive, send_without_body)
        except (OSError, ClientDisconnect):
            if not answered:
                raise


def is_head(scope: Scope) -> bool:
    """Return whether the request came as HEAD, which must change nothing."""
    return bool(scope.get(_HEAD))


def same_origin(scheme: str, headers: Headers, trusted: frozenset[str] = frozenset()) -> bool:
    """Return whether an unsafe request comes from our own pages, or not from a browser.

    Browsers name the source of a request in Sec-Fetch-Site.  Those that do not send Origin, of which scheme, host and
    port are compared.  A client that sends neither is not a browser, so it has no cookie that another site could
    misuse.
    """
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin", "").lower()
    if site in ("same-origin", "none") or (origin and origin in trusted):
        return True
    if site is not None:
        return False
    if not origin:
        return True
    return _with_port(origin) == _with_port(f"{scheme}://{headers.get('host', '').lower()}")


def _with_port(origin: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def bearer_secret(headers: Headers) -> str | None:
    """Return the secret of an `Authorization: Bearer` header, or None if there is no such header."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


class SameOrigin:
    """Middleware that refuses unsafe requests that another site made the browser send.

    A request with an API token passes: another site cannot make a browser send one, and such a request is never
    answered by its cookies.
    """

    def __init__(self, app: ASGIApp, trusted: frozenset[str] = frozenset()) -> None:
        self.app, self.trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or self._accepts(scope):
            await self.app(scope, receive, send)
            return
        response = error_response(
            Request(scope), 403,
            "This request came from another site. If it is one of your own addresses, name it in "
            "SAESCOPE_TRUSTED_ORIGINS.")
        await response(scope, receive, send)

    def _accepts(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        return bearer_secret(headers) is not None or same_origin(scope["scheme"], headers, self.trusted)


READ_ONLY = "The workspace is read-only: it can be browsed, and nothing can be stored, steered or inspected."


class ReadOnly:
    """Middleware that refuses unsafe requests while the workspace cannot be written (`app.state.read_only`)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unsafe = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if unsafe and getattr(scope["app"].state, "read_only", False):
            await error_response(Request(scope), 503, READ_ONLY)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class TokenBuckets:
    """Token buckets by key: `per_minute` tokens a minute each, at most `burst` saved up.

    The least recently used keys are dropped beyond `max_keys`, so that strangers cannot fill the memory.
    """

    blocking = False  # whether `take` waits for a database

    def __init__(self, per_minute: float, burst: float | None = None, max_keys: int = 10_000) -> None:
        self.rate = per_minute / 60
        self.burst = burst if burst is not None else max(1.0, per_minute)
        self.max_keys = max_keys
        self._full: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (tokens, when)
        self._lock = Lock()

    def take(self, key: str, now: float | None = None) -> float:
        """Take a token.  Returns 0 if there was one, else the seconds until there is one."""
        now = time.monotonic() if now is None else now
        with self._lock:
            tokens, then = self._full.pop(key, (self.burst, now))
            tokens = min(self.burst, tokens + max(0.0, now - then) * self.rate)
            wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
            self._full[key] = (tokens if wait else tokens - 1, now)
            while len(self._full) > self.max_keys:
                self._full.popitem(last=False)
        return wait


def first_segment(path: str) -> str:
    """Return the first segment of a path, which names its group of pages, without the suffix `.json`."""
    return path.lstrip("/").partition("/")[0].removesuffix(".json")


def limited_pages(path: str) -> str:
    """Return the group of pages whose limit a path counts against: `/api/steer` counts as `/steer` does."""
    return first_segment(path.removeprefix("/api/"))


def too_many(wait: float, whose: str = "your address") -> tuple[str, dict[str, str]]:
    """Return the message and the headers for a client whose bucket is empty for `wait` more seconds."""
    seconds = int(wait) + 1
    return f"Too many requests from {whose}; try again in {seconds} s.", {"Retry-After": str(seconds)}


def client_address(scope: Scope) -> str:
    """Return the address whose requests are counted together."""
    return str(scope["client"][0]) if scope.get("client") else "?"


class RateLimit:
    """Middleware that limits unsafe requests per client address, by the first segment of their path.

    Reads are not limited, except those that make the model work, which `count_computing` counts where the work is
    requested.  Limits over all clients belong to a proxy; the queue of the model worker is bounded as well.
    """

    def __init__(self, app: ASGIApp, limits: dict[str, TokenBuckets]) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            # A one-time link is redeemed by GET: guessing it counts as signing in.
            counted = scope["method"] not in SAFE_METHODS or (path == "/login" and b"token=" in scope["query_string"])
            buckets = self.limits.get(limited_pages(path)) if counted else None
            wait = await _take(buckets, client_address(scope)) if buckets else 0.0
            if wait:
                message, headers = too_many(wait)
                await error_response(Request(scope), 429, message, headers=headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def _take(buckets: TokenBuckets, key: str) -> float:
    return await run_in_threadpool(buckets.take, key) if buckets.blocking else buckets.take(key)


async def count_computing(request: Request) -> None:
    """Count a read that makes the model work against the limit of its pages.  Raises 429 if the limit is reached.

    `RateLimit` and `count_user` have counted unsafe requests already.
    """
    if request.method in SAFE_METHODS:
        await _count(request, client_address(request.scope), "your address")
        await count_user(request, getattr(request.state, "user", None))


async def count_user(request: Request, user: User | None) -> None:
    """Count a request against its user's limit, which holds at all addresses together.  Raises 429 at the limit."""
    if user is not None:
        await _count(request, f"user {user.id}", "your account")


async def _count(request: Request, key: str, whose: str) -> None:
    buckets = getattr(request.app.state, "limits", {}).get(limited_pages(request.url.path))
    if buckets is not None and (wait := await _take(buckets, key)):
        raise HTTPException(429, *too_many(wait, whose))
