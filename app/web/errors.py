"""Error responses: a page for people, JSON for programs, a fragment for htmx."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from markupsafe import escape
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app.web.logs import HEADER as REQUEST_ID
from app.web.storage_faults import KINDS as STORAGE_FAULTS
from app.web.storage_faults import storage_fault
from app.web.templating import render
from sae.errors import DamagedFile, UserError
from sae.faults import fault_of

log = logging.getLogger(__name__)

_MESSAGES = {  # title and advice by status
    400: ("Invalid request", "Check the address or the form and try again."),
    401: ("Signed out", "Sign in to make changes."),
    403: ("Not allowed", "Only an administrator may do this."),
    404: ("Not found", "There is nothing at this address. It may have been deleted or renamed."),
    405: ("Method not allowed", "This address does not accept this kind of request."),
    409: ("Conflict", "Something has changed in the meantime. Reload the page to see the current state."),
    413: ("Too large", "The request is larger than this server accepts (setting SAESCOPE_MAX_BODY_BYTES)."),
    422: ("Invalid input", "Check the values and try again."),
    429: ("Too many requests", "Wait a little, then try again."),
    500: ("Server error", "The reason is in the server's log. Nothing you entered was stored."),
    507: ("The disk is full", "The disk is full: nothing was stored. Free some space on the server, then try again."),
    503: ("Not available", "The server is busy. Try again in a moment."),
}


Link = tuple[str, str]  # text, address


class NotHere(HTTPException):
    """An HTTP error 404 with links to the nearest existing pages."""

    def __init__(self, message: str, *links: Link) -> None:
        super().__init__(404, message)
        self.links = links


class Renamed(Exception):
    """An error for the address of an SAE by a former name; the answer redirects to the same page of the new one."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(f"{old} is now {new}")
        self.old, self.new = old, new


class SignInNeeded(Exception):
    """An error for requests that need a signed-in user; pages redirect to /login and back."""


def wants_json(request: Request) -> bool:
    """Return whether the answer should be JSON, by the path (`/api/…`, `….json`) or the Accept header."""
    path, accept = request.url.path, request.headers.get("accept", "")
    if path.startswith("/api/") or path.endswith(".json") or path in ("/healthz", "/readyz"):
        return True
    return "application/json" in accept and "text/html" not in accept


def error_response(
    request: Request, status: int, message: str = "", *, field: str | None = None,
    headers: dict[str, str] | None = None, links: Sequence[Link] = (),
) -> Response:
    """Return the response for an error, in the form that the request wants.

    `message` replaces the usual advice.  `links` lead to the nearest existing pages; a page adds further ones.
    """
    title, advice = _MESSAGES.get(status, (HTTPStatus(status).phrase, ""))
    if wants_json(request):
        body: dict[str, object] = {"error": message or title, "status": status}
        body |= ({"field": field} if field else {}) | ({"nearest": [href for _, href in links]} if links else {})
        return JSONResponse(body, status, headers)
    if request.headers.get("HX-Request"):
        text = f'<div class="notice notice-error" role="alert"><strong>{escape(title)}.</strong> '
        return HTMLResponse(f"{text}{escape(message or advice)}</div>", status, headers)
    sae = _sae_of(request) if status < 500 else None
    return render(request, "error.html", status, headers, title=title, message=message or advice, current_sae=sae,
                  links=_ways_on(request, status, sae, links))


def _sae_of(request: Request) -> Any:
    """Return the SAE that the address names, so that the header keeps it, or None if it names none."""
    catalog = getattr(request.app.state, "catalog", None)
    if catalog is None:
        return None
    segments = request.url.path.strip("/").split("/")
    segments = segments[1:] if segments[0] in ("inspect", "effects") else segments
    return catalog.get_sae("/".join(segments[:2])) or catalog.get_sae(request.query_params.get("sae", ""))


def _ways_on(request: Request, status: int, sae: Any, nearest: Sequence[Link]) -> list[Link]:
    """Return the links of an error page: the nearest pages, the SAE's, home.  Only administrators see theirs."""
    user = getattr(request.state, "user", None)
    links = [link for link in nearest if not link[1].startswith("/admin/") or (user is not None and user.is_admin)]
    path = request.url.path
    if status == 401:
        links.append(("Sign in", f"/login?next={quote(_here(request))}"))
    if status == 422 and request.method in ("GET", "HEAD") and request.url.query:
        links.append(("This page without its settings", path))
    if sae is not None and path != f"/{sae.id}":
        links.append((sae.id, f"/{sae.id}"))
    return [*links, ("Home", "/")]


def sign_in_response(request: Request) -> Response:
    """Return 401 for programs and unsafe methods, and a redirect to the sign-in form for pages."""
    login = f"/login?next={quote(_here(request))}"
    if request.headers.get("HX-Request"):
        return HTMLResponse("", 401, {"HX-Redirect": login})
    if wants_json(request) or request.method not in ("GET", "HEAD"):
        return error_response(request, 401, f"Sign in at {login} to make changes.")
    return RedirectResponse(login, 303)


def _here(request: Request) -> str:
    # After sign-in a page can be loaded again, but a change must not be repeated without the user's consent.
    if request.method not in ("GET", "HEAD"):
        return "/admin"
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}{query}"


def install(app: FastAPI, find_user: Callable[[Request], Awaitable[Any]] | None = None) -> None:
    """Install this module's exception handlers in `app`.

    `find_user` sets `request.state.user`, for addresses without a route, whose dependencies never run.
    """

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if find_user is not None and not hasattr(request.state, "user"):
            try:
                await find_user(request)
            except SignInNeeded:
                return sign_in_response(request)
        usual = HTTPStatus(error.status_code).phrase  # Starlette's default detail adds nothing to the status
        message = "" if error.detail == usual else str(error.detail)
        links = error.links if isinstance(error, NotHere) else ()
        return await run_in_threadpool(
            error_response, request, error.status_code, message, headers=dict(error.headers or {}), links=links)

    def user_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        status, headers = (503, {"Retry-After": "10"}) if isinstance(error, DamagedFile) else (422, None)
        return error_response(request, status, str(error), field=error.field, headers=headers)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["loc"] and first["loc"][0] == "path":  # no page can have such an address
            return error_response(request, 404)
        field = str(first["loc"][-1]) if first.get("loc") else None
        words = fault_of(first).words
        return error_response(request, 422, f"{field}: {words}" if field else words, field=field)

    def broken(request: Request, _error: Exception) -> Response:
        found = request.headers.get(REQUEST_ID)
        return error_response(request, 500, f"{_MESSAGES[500][1]} Request: {found}" if found else "")

    def storage(request: Request, error: Exception) -> Response:
        fault = storage_fault(error)
        if fault is None:
            raise error
        log.error("%s %s: %s: %s", request.method, request.url.path, fault.reason, error)
        return error_response(request, fault.status, fault.message, headers=fault.headers)

    def signed_out(request: Request, _error: Exception) -> Response:
        return sign_in_response(request)

    def renamed(request: Request, error: Exception) -> Response:
        assert isinstance(error, Renamed)
        path = re.sub(rf"/{re.escape(error.old)}(?=[/.]|$)", f"/{error.new}", request.url.path, count=1)
        query = f"?{request.url.query}" if request.url.query else ""
        # 307: a method stays the same, and nothing is cached, because another SAE may get the old name.
        return RedirectResponse(f"{quote(path)}{query}", 307)

    for kind, handler in (
        (HTTPException, http), (UserError, user_error), (RequestValidationError, invalid),
        (SignInNeeded, signed_out), (Renamed, renamed), (Exception, broken),
    ):
        app.add_exception_handler(kind, handler)
    for storage_kind in STORAGE_FAULTS:
        app.add_exception_handler(storage_kind, storage)
