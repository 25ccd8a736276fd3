"""Signing in and out: by the one-time link, or by name and password."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.access import accounts
from app.access.middleware import first_segment, is_head
from app.db.tables import User
from app.pages.dependencies import SessionDep, SettingsDep, UserDep
from app.settings import Settings
from app.web.templating import render

router = APIRouter(include_in_schema=False)

_LINK_USED = (
    "This link no longer works: it can be used once, for a limited time, and only the newest one is valid. "
    "Start the server again for a new one, or make a user with: saescope create-admin")


def safe_next(address: str) -> str:
    """Return `address` if it is a path of ours to return to, else "".  `//host` and `/\\host` lead to other sites."""
    ours = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if ours and first_segment(urlsplit(address).path) not in ("login", "logout") else ""


def _landing(user: User, address: str) -> str:
    """Return where a user goes after signing in: `address`, unless it is not ours or not for this user."""
    path = safe_next(address)
    if user.is_admin:
        return path or "/admin"
    return path if path and first_segment(urlsplit(path).path) != "admin" else "/"


def _came_from(request: Request) -> str:
    """Return the page of ours on which the link to the form was followed, or ""."""
    try:
        page = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return ""
    if not page.netloc or page.netloc.lower() != request.headers.get("host", "").lower():
        return ""
    return safe_next(page.path + (f"?{page.query}" if page.query else ""))


@router.get("/login")
def login_form(
    request: Request, db: SessionDep, settings: SettingsDep, user: UserDep, token: str = "", next: str = ""
) -> Response:
    """Show the form; or, with the token of a one-time link, sign in at once."""
    to = safe_next(next) or _came_from(request)
    if token and not is_head(request.scope):  # HEAD, as link checkers send it, must not use the link up
        linked = accounts.redeem_link(db, token)
        return _form(request, to, _LINK_USED) if linked is None else _signed_in(request, db, settings, linked, to)
    if user is not None:
        return RedirectResponse(_landing(user, to), 303)
    return _form(request, to)


@router.post("/login")
def login(
    request: Request, db: SessionDep, settings: SettingsDep,
    name: Annotated[str, Form(max_length=200)] = "", password: Annotated[str, Form(max_length=2000)] = "",
    next: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Start a session by name and password."""
    user = accounts.check_password(db, name, password)
    if user is None:
        return _form(request, next, "Wrong name or password.", name)
    return _signed_in(request, db, settings, user, next)


def _form(request: Request, next: str, error: str = "", name: str = "") -> Response:
    return render(
        request, "system/login.html", 401 if error else 200, next=safe_next(next), error=error, user_name=name)


def _signed_in(request: Request, db: Session, settings: Settings, user: User, to: str) -> Response:
    """Open a new session, and end the one that the browser had before."""
    old = request.cookies.get(accounts.COOKIE)
    if old:
        accounts.close_session(db, old)
    response = RedirectResponse(_landing(user, to), 303)
    response.set_cookie(
        accounts.COOKIE, accounts.open_session(db, user, settings, request.headers.get("user-agent", "")),
        max_age=int(settings.session_days * 86400), httponly=True, samesite="lax",
        secure=settings.secure_cookies or request.url.scheme == "https")
    return response


@router.post("/logout")
def logout(request: Request, db: SessionDep) -> Response:
    """End the session here and in the database.  Signing out twice is no error."""
    secret = request.cookies.get(accounts.COOKIE)
    if secret:
        accounts.close_session(db, secret)
    response = RedirectResponse("/", 303)
    response.delete_cookie(accounts.COOKIE, httponly=True, samesite="lax")
    return response
