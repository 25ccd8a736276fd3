"""Errors as answers: a designed page for people, JSON for programs, a fragment for htmx."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from markupsafe import escape
from starlette.exceptions import HTTPException

from app.web.templating import render
from sae.errors import UserError

_WORDS = {
    400: ("That request could not be understood", "Check the address or the form and try again."),
    401: ("Signed out", "This changes something, so it needs sign-in."),
    403: ("Not allowed", "Your account may not do this; an administrator's may."),
    404: ("Not found", "There is nothing at this address. It may have been deleted or renamed."),
    405: ("Not like this", "This address does not take that kind of request."),
    409: ("Not now", "Something else changed in the meantime. Load the page again to see how it stands."),
    413: ("Too large", "The request is larger than this server takes (setting SAESCOPE_MAX_BODY_BYTES)."),
    422: ("That input cannot be used", "Check the values and try again."),
    429: ("Too many requests", "Wait a little, then try again."),
    500: ("Something broke on this side", "The reason is in the server's log. Nothing you entered was stored."),
    503: ("Busy", "The server has no room for this at the moment. Try again soon."),
}


class SignInNeeded(Exception):
    """Raised by dependencies when nobody is signed in; pages lead to /login and back."""


def wants_json(request: Request) -> bool:
    """Whether a program is asking: `/api`, an address ending in `.json`, or an Accept header that says so."""
    path, accept = request.url.path, request.headers.get("accept", "")
    if path.startswith("/api/") or path.endswith(".json") or path in ("/healthz", "/readyz"):
        return True
    return "application/json" in accept and "text/html" not in accept


def error_response(
    request: Request, status: int, message: str = "", *, field: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer for an error, in the form that the request wants.  `message` replaces the usual advice."""
    title, advice = _WORDS.get(status, (HTTPStatus(status).phrase, ""))
    if wants_json(request):
        body: dict[str, object] = {"error": message or title, "status": status}
        return JSONResponse(body | ({"field": field} if field else {}), status, headers)
    if request.headers.get("HX-Request"):
        text = f'<div class="notice notice-error" role="alert"><strong>{escape(title)}.</strong> '
        return HTMLResponse(f"{text}{escape(message or advice)}</div>", status, headers)
    links = [("Sign in", "/login")] if status == 401 else [("Home", "/")]
    return render(request, "error.html", status, headers, title=title, message=message or advice, links=links)


def sign_in_response(request: Request) -> Response:
    """401 for programs and unsafe methods; a page that is merely read leads to the sign-in form."""
    login = f"/login?next={quote(_here(request))}"
    if request.headers.get("HX-Request"):
        return HTMLResponse("", 401, {"HX-Redirect": login})
    if wants_json(request) or request.method not in ("GET", "HEAD"):
        return error_response(request, 401, f"Sign in at {login} first: this changes something.")
    return RedirectResponse(login, 303)


def _here(request: Request) -> str:
    # After sign-in a page is read again, but a changed thing is not changed again unseen.
    if request.method not in ("GET", "HEAD"):
        return "/admin"
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}{query}"


def install(app: FastAPI) -> None:
    """Give `app` the handlers of this module."""

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        usual = HTTPStatus(error.status_code).phrase  # Starlette's own detail says nothing more than the number
        message = "" if error.detail == usual else str(error.detail)
        return error_response(request, error.status_code, message, headers=dict(error.headers or {}))

    def user_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        return error_response(request, 422, str(error), field=error.field)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["loc"] and first["loc"][0] == "path":  # an address that no page could have
            return error_response(request, 404)
        field = str(first["loc"][-1]) if first.get("loc") else None
        return error_response(request, 422, f"{field}: {first['msg']}" if field else str(first["msg"]), field=field)

    def broken(request: Request, _error: Exception) -> Response:
        return error_response(request, 500)

    def signed_out(request: Request, _error: Exception) -> Response:
        return sign_in_response(request)

    for kind, handler in (
        (HTTPException, http), (UserError, user_error), (RequestValidationError, invalid),
        (SignInNeeded, signed_out), (Exception, broken),
    ):
        app.add_exception_handler(kind, handler)
