"""The page of the signed-in user: password, sessions, API tokens, sign out."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.access import accounts, tokens
from app.db.tables import User
from app.pages.dependencies import BrowserUserDep, SessionDep
from app.web.templating import render
from sae.errors import UserError

router = APIRouter(prefix="/account", include_in_schema=False)

Secret = Annotated[str, Form(max_length=2000)]


@router.get("")
def show_account(request: Request, user: BrowserUserDep, db: SessionDep, changed: str = "") -> Response:
    """Show the account; `changed`: after the password was changed."""
    return account_page(request, user, db, changed=bool(changed))


@router.post("/password")
def change_password(
    request: Request, user: BrowserUserDep, db: SessionDep, current: Secret = "", password: Secret = "",
    again: Secret = "",
) -> Response:
    """Change the password.  All other sessions of the user end."""
    try:
        if password != again:
            raise UserError("again: the two new passwords differ", "again")
        accounts.change_password(db, user, current, password, _secret(request))
    except UserError as error:
        return account_page(request, user, db, error=error)
    return RedirectResponse("/account?changed=1", 303)


@router.post("/sessions/end")
def end_sessions(
    request: Request, user: BrowserUserDep, db: SessionDep, session: Annotated[str, Form(max_length=64)] = ""
) -> Response:
    """End one session, or without `session` all but the one that asks."""
    if session:
        accounts.end_session(db, user.id, session)
    else:
        accounts.end_sessions(db, user.id, but=_secret(request))
    return RedirectResponse("/account#sessions", 303)


def _secret(request: Request) -> str:
    return request.cookies.get(accounts.COOKIE, "")


def account_page(
    request: Request, user: User, db: Session, *, changed: bool = False, error: UserError | None = None, **more: Any
) -> Response:
    """Show the account; `more` is what the form of API tokens needs after it was sent."""
    errors = {error.field or "": str(error).removeprefix(f"{error.field}: ")} if error else {}
    return render(
        request, "system/account.html", 422 if error else 200, section="account", me=user, changed=changed,
        errors=errors, sessions=accounts.sessions_of(db, user.id), here=accounts.hash_secret(_secret(request)),
        min_password=accounts.MIN_PASSWORD, tokens=tokens.tokens_of(db, user.id), scopes=tokens.SCOPES,
        now=time.time(), **{"token": None, "sent": {"scope": ["read"], "days": "90"}, **more})
