"""API tokens: how programs act for a user, within scopes, until a date.

A token's secret is shown once, when it is made.  Only its SHA-256 is stored.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.access.accounts import hash_secret
from app.access.middleware import SAFE_METHODS
from app.db.tables import ApiToken, User
from sae.errors import UserError

# From the weakest to the strongest.  `read` belongs to every token, and `admin` includes the others.
SCOPES = {
    "read": "read pages, their JSON and the latents of a text",
    "steer": "steer, and measure effects of latents",
    "write": "write labels, notes, tags and stars",
    "admin": "everything that you may do, such as starting runs and deleting SAEs",
}
PREFIX = "saescope_"  # by which people and scanners of secrets recognise a token
MAX_DAYS = 3650
MAX_TOKENS = 100  # of one user
_USED_EVERY_S = 60.0  # so that reading does not write to the database each time


def make_token(db: Session, user: User, name: str, scopes: Collection[str], days: int | None) -> str:
    """Make a token and return its secret.  Without `days` it does not expire.  Raises UserError."""
    name = name.strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise UserError("token_name: use 1 to 80 printable characters", "token_name")
    chosen = {"read", *scopes}
    if unknown := chosen - set(SCOPES):
        raise UserError(f"scope: there is no scope {min(unknown)!r}; choose from {', '.join(SCOPES)}", "scope")
    if "admin" in chosen and not user.is_admin:
        raise UserError("scope: only administrators can make a token with the scope admin", "scope")
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise UserError(f"days: use 1 to {MAX_DAYS:,} days, or leave it empty", "days")
    if len(tokens_of(db, user.id)) >= MAX_TOKENS:
        raise UserError(f"token_name: you have {MAX_TOKENS} tokens; revoke one first", "token_name")
    secret = PREFIX + secrets.token_urlsafe(32)
    db.add(ApiToken(
        id=hash_secret(secret), user_id=user.id, name=name, scopes=" ".join(s for s in SCOPES if s in chosen),
        expires=None if days is None else time.time() + days * 86_400))
    db.commit()
    return secret


def find_token(db: Session, secret: str) -> ApiToken | None:
    """Return the token with this secret and note its use, or None if it is unknown, expired or revoked."""
    found, now = db.get(ApiToken, hash_secret(secret)), time.time()
    if found is None or (found.expires is not None and found.expires <= now):
        return None
    if found.used is None or found.used < now - _USED_EVERY_S:
        db.execute(update(ApiToken).where(ApiToken.id == found.id).values(used=now))
        db.commit()
        db.refresh(found)
    return found


def tokens_of(db: Session, user_id: int) -> list[ApiToken]:
    """Return the tokens of a user, also expired ones, newest first."""
    return list(db.scalars(
        select(ApiToken).where(ApiToken.user_id == user_id).order_by(ApiToken.created.desc(), ApiToken.id)))


def revoke_token(db: Session, user_id: int, token_id: str) -> None:
    """Delete a token of a user, named by its stored id.  An unknown one is no error."""
    db.execute(delete(ApiToken).where(ApiToken.user_id == user_id, ApiToken.id == token_id))
    db.commit()


def scope_of(method: str, pages: str) -> str:
    """Return the scope that a request needs, by its method and the group of pages of its path.

    Reading a text changes nothing, although texts are sent by POST.  Handlers for administrators also ask for
    `admin`.
    """
    if method in SAFE_METHODS or pages in ("inspect", "search"):
        return "read"
    return "steer" if pages in ("steer", "effects") else "write"
