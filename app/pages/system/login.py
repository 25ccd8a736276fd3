"""Signing in and out: by the one-time link, or by name and password."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.access import accounts
from app.db.tables import User
from app.pages.dependencies import SessionDep, SettingsDep, UserDep
from app.settings import Settings
from app.web.templating import render

router = APIRouter(include_in_schema=False)

_LINK_USED = (
    "This link is no longer good: it works once, for a limited time, and only the newest one. "
    "Start the server again for a new one, or make a user with: saescope create-admin")


def safe_next(address: str) -> str:
    """`address` if it is a path of ours, else the admin page.  `//host` and `/\\host` lead elsewhere."""
    ok = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if ok else "/admin"


@router.get("/login")
def login_form(
    request: Request, db: SessionDep, settings: SettingsDep, user: UserDep, token: str = "", next: str = "/admin"
) -> Response:
    """The form; or, with the token of a one-time link, straight in."""
    if token:
        linked = accounts.redeem_link(db, token)
        return _form(request, next, _LINK_USED) if linked is None else _signed_in(request, db, settings, linked, next)
    if user is not None:
        return RedirectResponse(safe_next(next), 303)
    return _form(request, next)


@router.post("/login")
def login(
    request: Request, db: SessionDep, settings: SettingsDep,
    name: Annotated[str, Form(max_length=200)] = "", password: Annotated[str, Form(max_length=2000)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/admin",
) -> Response:
    """Start a session by name and password."""
    user = accounts.check_password(db, name, password)
    if user is None:
        return _form(request, next, "Name and password do not belong together.", name)
    return _signed_in(request, db, settings, user, next)


def _form(request: Request, next: str, error: str = "", name: str = "") -> Response:
    return render(
        request, "system/login.html", 401 if error else 200, next=safe_next(next), error=error, user_name=name)


def _signed_in(request: Request, db: Session, settings: Settings, user: User, to: str) -> Response:
    """A new session, whatever the browser had before; that one ends."""
    old = request.cookies.get(accounts.COOKIE)
    if old:
        accounts.close_session(db, old)
    response = RedirectResponse(safe_next(to), 303)
    response.set_cookie(
        accounts.COOKIE, accounts.open_session(db, user, settings), max_age=int(settings.session_days * 86400),
        httponly=True, samesite="lax", secure=settings.secure_cookies or request.url.scheme == "https")
    return response


@router.post("/logout")
def logout(request: Request, db: SessionDep) -> Response:
    """End the session here and in the database; signing out twice is no error."""
    secret = request.cookies.get(accounts.COOKIE)
    if secret:
        accounts.close_session(db, secret)
    response = RedirectResponse("/", 303)
    response.delete_cookie(accounts.COOKIE, httponly=True, samesite="lax")
    return response
