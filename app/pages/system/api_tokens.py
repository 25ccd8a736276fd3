"""API tokens of the signed-in user, on the account's page: making one, and revoking one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.access import tokens
from app.pages.dependencies import BrowserUserDep, SessionDep
from app.pages.system.account import account_page
from app.web.parameters import whole_number
from sae.errors import UserError

router = APIRouter(prefix="/account/tokens", include_in_schema=False)

_NO_DAYS = -1  # something was typed that is no number of days; `make_token` says what is possible


@router.post("")
def make_token(
    request: Request, user: BrowserUserDep, db: SessionDep, token_name: Annotated[str, Form(max_length=200)] = "",
    scope: Annotated[list[str] | None, Form(max_length=10)] = None, days: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Make a token and show its secret, this once.  Without `days` it does not expire."""
    asked = scope or []
    n_days = None
    if days.strip():
        found = whole_number(days)
        n_days = _NO_DAYS if found is None else found
    try:
        secret = tokens.make_token(db, user, token_name, asked, n_days)
    except UserError as error:
        sent = {"token_name": token_name, "scope": asked, "days": days}
        return account_page(request, user, db, error=error, sent=sent)
    return account_page(request, user, db, token=secret)


@router.post("/revoke")
def revoke_token(
    user: BrowserUserDep, db: SessionDep, token: Annotated[str, Form(max_length=64)] = ""
) -> Response:
    """Revoke a token: programs that use it are refused from now on."""
    tokens.revoke_token(db, user.id, token)
    return RedirectResponse("/account#tokens", 303)
