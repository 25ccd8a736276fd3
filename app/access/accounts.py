"""Users, their passwords and sessions, and the one-time admin link.

Secrets are 256 random bits.  The database holds only their SHA-256, so a copy of it opens nothing.  A fast hash is
enough for a secret that nobody can guess; passwords get argon2.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ColumnElement, delete, exists, func, literal, not_, or_, select, update
from sqlalchemy.orm import Session

from app.access.browsers import browser_name
from app.db.engine import SessionFactory
from app.db.tables import LoginLink, LoginSession, User
from app.settings import Settings
from sae.errors import UserError

COOKIE = "saescope_session"
LINK_USER = "local-admin"  # the user whom the one-time link signs in; it has no password
MIN_PASSWORD = 8
ROLES = ("reader", "editor", "administrator")

_hasher = PasswordHasher()


@cache
def _nobody() -> str:
    """Return a hash to check when the name is unknown, so that the time taken does not show which names exist.

    It is made at the first check: it takes a tenth of a second, and most processes of the program check no password.
    """
    return _hasher.hash(secrets.token_hex(16))


def hash_secret(secret: str) -> str:
    """Return the form in which the secret of a session or a link is stored: 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def set_password(
    db: Session, name: str, password: str, *, admin: bool = True, editor: bool = True,
) -> User:
    """Create the user, or give an existing user this password and role, which ends its sessions.  Raises UserError."""
    name = _checked_name(name)
    _check_password_rules(password)
    user = db.scalar(select(User).where(User.name == name))
    if user is None:
        user = User(name=name, is_admin=admin)
        db.add(user)
    else:
        db.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
    user.password_hash, user.is_admin, user.is_editor = _hasher.hash(password), admin, editor
    if admin:
        _drop_links(db)
    db.commit()
    return user


def add_user(db: Session, name: str, password: str, role: str = "editor") -> User:
    """Create a user with a role of `ROLES`.

    Raises UserError if the name is taken, or the name, the password or the role is not usable.
    """
    _check_role(role)
    if db.scalar(select(User.id).where(User.name == name.strip())) is not None:
        raise UserError(f"name: the user {name.strip()} already exists; choose another name", "name")
    return set_password(db, name, password, admin=role == "administrator", editor=role != "reader")


def change_password(db: Session, user: User, current: str, new: str, session: str) -> None:
    """Give the signed-in user a new password and end all of its sessions but `session`, a secret.

    Raises UserError if `current` is not the present password, or `new` is not usable.
    """
    if check_password(db, user.name, current) is None:
        raise UserError("current: this is not your present password", "current")
    _check_password_rules(new)
    db.execute(update(User).where(User.id == user.id).values(password_hash=_hasher.hash(new)))
    end_sessions(db, user.id, but=session)


def set_role(db: Session, user: User, role: str) -> None:
    """Give a user a role of `ROLES`.  Raises UserError for the last administrator and for an unknown role."""
    _check_role(role)
    admin = role == "administrator"
    allowed = or_(literal(admin), _spare_admin(user))
    changed = db.execute(update(User).where(User.id == user.id, allowed).values(
        is_admin=admin, is_editor=role != "reader"))
    _refuse_last_admin(db, user, changed.rowcount)  # type: ignore[attr-defined]
    if admin:
        _drop_links(db)
    db.commit()


def remove_user(db: Session, user: User) -> None:
    """Delete a user, whose sessions end.  Raises UserError for the last administrator."""
    deleted = db.execute(delete(User).where(User.id == user.id, _spare_admin(user)))
    _refuse_last_admin(db, user, deleted.rowcount)  # type: ignore[attr-defined]
    db.commit()


def check_password(db: Session, name: str, password: str) -> User | None:
    """Return the user with this name and password, or None."""
    user = db.scalar(select(User).where(User.name == name.strip()))
    stored = user.password_hash if user and user.password_hash else _nobody()
    try:
        _hasher.verify(stored, password[:1000])
    except (VerificationError, InvalidHashError):
        return None
    return user if stored is not _nobody() else None


def has_admin(db: Session) -> bool:
    """Return whether there is an administrator with a password.  Until then each start prints a link."""
    admins = select(func.count()).select_from(User).where(User.is_admin, User.password_hash.is_not(None))
    return bool(db.scalar(admins))


def make_login_link(db: Session, settings: Settings) -> str:
    """Return the secret of a new one-time link.  Earlier links stop working."""
    secret = secrets.token_urlsafe(32)
    _drop_links(db)
    db.add(LoginLink(id=hash_secret(secret), expires=time.time() + settings.login_link_hours * 3600))
    db.commit()
    return secret


def admin_link(factory: SessionFactory, settings: Settings, address: str) -> str | None:
    """Return the link to print at start, or None if an administrator with a password exists."""
    with factory() as db:
        return None if has_admin(db) else f"{address}/login?token={make_login_link(db, settings)}"


def redeem_link(db: Session, secret: str) -> User | None:
    """Use up a link and return the administrator it signs in, or None if it is unknown, old or used."""
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


def open_session(db: Session, user: User, settings: Settings, user_agent: str = "") -> str:
    """Open a session and return its secret, for the cookie.  Expired sessions are deleted here."""
    now = time.time()
    secret = secrets.token_urlsafe(32)
    db.execute(delete(LoginSession).where(LoginSession.expires <= now))
    db.add(LoginSession(
        id=hash_secret(secret), user_id=user.id, expires=now + settings.session_days * 86400,
        browser=browser_name(user_agent)))
    db.commit()
    return secret


def session_user(db: Session, secret: str) -> User | None:
    """Return the user of this session, or None if it is unknown, ended or expired."""
    found = db.get(LoginSession, hash_secret(secret))
    return found.user if found is not None and found.expires > time.time() else None


def sessions_of(db: Session, user_id: int) -> list[LoginSession]:
    """Return the sessions of a user that have not expired, newest first."""
    return list(db.scalars(
        select(LoginSession).where(LoginSession.user_id == user_id, LoginSession.expires > time.time())
        .order_by(LoginSession.created.desc(), LoginSession.id)))


def close_session(db: Session, secret: str) -> None:
    """End a session.  An unknown one is no error."""
    db.execute(delete(LoginSession).where(LoginSession.id == hash_secret(secret)))
    db.commit()


def end_session(db: Session, user_id: int, session_id: str) -> None:
    """End one session of a user, named by its stored id.  An unknown one is no error."""
    db.execute(delete(LoginSession).where(LoginSession.user_id == user_id, LoginSession.id == session_id))
    db.commit()


def end_sessions(db: Session, user_id: int, but: str = "") -> None:
    """End all sessions of a user except the one whose secret is `but`."""
    db.execute(delete(LoginSession).where(LoginSession.user_id == user_id, LoginSession.id != hash_secret(but)))
    db.commit()


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise UserError("name: use 1 to 80 printable characters", "name")
    if name == LINK_USER:
        raise UserError(f"name: {LINK_USER} is reserved for the one-time link; choose another name", "name")
    return name


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UserError(f"role: there is no role {role!r}; choose from {', '.join(ROLES)}", "role")


def _check_password_rules(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= 1000:
        raise UserError(f"password: use {MIN_PASSWORD} to 1,000 characters", "password")


def _drop_links(db: Session) -> None:
    db.execute(delete(LoginLink))


def _spare_admin(user: User) -> ColumnElement[bool]:
    """Return the SQL condition that the program can do without this user as an administrator.

    It is part of the statement that takes the right away, so two requests cannot remove the last two administrators.
    """
    other = select(User.id).where(User.is_admin, User.password_hash.is_not(None), User.id != user.id)
    return or_(not_(User.is_admin), User.password_hash.is_(None), exists(other.correlate(None)))


def _refuse_last_admin(db: Session, user: User, changed: int) -> None:
    if not changed:
        db.rollback()
        raise UserError(f"{user.name} is the last administrator with a password; make another one first", "user")
