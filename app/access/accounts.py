"""Who is signed in: passwords, sessions and the one-time admin link.

Secrets are 256 random bits; the database holds only their SHA-256, so that a copy of it opens
nothing.  (A fast hash is enough for a secret nobody could guess; passwords get argon2.)
"""

from __future__ import annotations

import hashlib
import secrets
import time

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.tables import LoginLink, LoginSession, User
from app.settings import Settings
from sae.errors import UserError

COOKIE = "saescope_session"
LINK_USER = "local-admin"  # whom the one-time link signs in; has no password
MIN_PASSWORD = 8

_hasher = PasswordHasher()
# Checked when the name is unknown, so that the time taken does not tell which names exist.
_NOBODY = _hasher.hash(secrets.token_hex(16))


def hash_secret(secret: str) -> str:
    """The form in which a session's or a link's secret is stored: 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def set_password(db: Session, name: str, password: str, *, admin: bool = True) -> User:
    """Create the user, or give an existing one this password (its sessions end).  Raises UserError."""
    name = name.strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise UserError("name: take 1 to 80 printable characters", "name")
    if name == LINK_USER:
        raise UserError(f"name: {LINK_USER} belongs to the one-time link; take another", "name")
    if not MIN_PASSWORD <= len(password) <= 1000:
        raise UserError(f"password: take {MIN_PASSWORD} characters or more (1,000 at most)", "password")
    user = db.scalar(select(User).where(User.name == name))
    if user is None:
        user = User(name=name)
        db.add(user)
    else:
        db.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
    user.password_hash, user.is_admin = _hasher.hash(password), admin
    db.commit()
    return user


def check_password(db: Session, name: str, password: str) -> User | None:
    """The user with this name and password, or None."""
    user = db.scalar(select(User).where(User.name == name.strip()))
    stored = user.password_hash if user and user.password_hash else _NOBODY
    try:
        _hasher.verify(stored, password[:1000])
    except (VerificationError, InvalidHashError):
        return None
    return user if stored is not _NOBODY else None


def has_admin(db: Session) -> bool:
    """Whether somebody with a password may administer; until then each start prints a link."""
    admins = select(func.count()).select_from(User).where(User.is_admin, User.password_hash.is_not(None))
    return bool(db.scalar(admins))


def make_login_link(db: Session, settings: Settings) -> str:
    """The secret of a new one-time link; links made before are good no longer."""
    secret = secrets.token_urlsafe(32)
    db.execute(delete(LoginLink))
    db.add(LoginLink(id=hash_secret(secret), expires=time.time() + settings.login_link_hours * 3600))
    db.commit()
    return secret


def admin_link(factory: SessionFactory, settings: Settings, address: str) -> str | None:
    """The link to print at start, or None where an admin with a password exists."""
    with factory() as db:
        return None if has_admin(db) else f"{address}/login?token={make_login_link(db, settings)}"


def redeem_link(db: Session, secret: str) -> User | None:
    """Use up a link; the admin it signs in, or None if it is unknown, old or used."""
    now = time.time()
    used = db.execute(
        update(LoginLink)
        .where(LoginLink.id == hash_secret(secret), LoginLink.used.is_(None), LoginLink.expires > now)
        .values(used=now))
    if used.rowcount != 1:  # type: ignore[attr-defined]
        db.rollback()
        return None
    user = db.scalar(select(User).where(User.name == LINK_USER))
    if user is None:
        user = User(name=LINK_USER, is_admin=True)
        db.add(user)
    db.commit()
    return user


def open_session(db: Session, user: User, settings: Settings) -> str:
    """A new session's secret, for the cookie.  Sessions past their time are cleared away here."""
    now = time.time()
    secret = secrets.token_urlsafe(32)
    db.execute(delete(LoginSession).where(LoginSession.expires <= now))
    db.add(LoginSession(id=hash_secret(secret), user_id=user.id, expires=now + settings.session_days * 86400))
    db.commit()
    return secret


def session_user(db: Session, secret: str) -> User | None:
    """Who holds this session, or None if it is unknown, ended or past its time."""
    found = db.get(LoginSession, hash_secret(secret))
    return found.user if found is not None and found.expires > time.time() else None


def close_session(db: Session, secret: str) -> None:
    """End a session; an unknown one is no error."""
    db.execute(delete(LoginSession).where(LoginSession.id == hash_secret(secret)))
    db.commit()
