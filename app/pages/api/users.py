"""Users and their sessions for programs of administrators."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi import Path as PathPart
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.access import accounts, audit
from app.db.tables import User
from app.pages.api.security import BEARER
from app.pages.dependencies import AdminDep, SessionDep
from sae.errors import UserError

router = APIRouter(prefix="/api/users", tags=["people"], dependencies=[BEARER])

Role = Literal["reader", "editor", "administrator"]
UserId = Annotated[int, PathPart(ge=0, lt=2**31)]


class UserOut(BaseModel):
    """A user who may sign in."""

    id: int
    name: str
    role: str
    password: bool = Field(description="Whether the user has a password, and not only one-time links")
    created: float


class UserIn(BaseModel):
    """A user to add."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"name": "eve", "password": "correct horse", "role": "reader"}]})

    name: str
    password: str
    role: Role = "editor"


class RoleIn(BaseModel):
    """A role."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"role": "editor"}]})

    role: Role


class PasswordIn(BaseModel):
    """A password."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"password": "correct horse"}]})

    password: str


class LoginSessionOut(BaseModel):
    """A signed-in browser."""

    id: str
    browser: str
    created: float
    expires: float


@router.get("", summary="All users (administrators)")
def read_users(db: SessionDep, admin: AdminDep) -> list[UserOut]:
    return [_out(user) for user in db.scalars(select(User).order_by(User.name))]


@router.post("", status_code=201, summary="Add a user (administrators)")
def add_user(request: Request, body: UserIn, db: SessionDep, admin: AdminDep) -> UserOut:
    """Add a user."""
    user = accounts.add_user(db, body.name, body.password, body.role)
    audit.say(request, f"{body.name.strip()}, {body.role}")
    return _out(user)


@router.put("/{user_id}/role", summary="Give a user another role (administrators)")
def set_role(request: Request, user_id: UserId, body: RoleIn, db: SessionDep, admin: AdminDep) -> UserOut:
    """Give a user another role.  The last administrator stays one."""
    user = _find(db, user_id)
    accounts.set_role(db, user, body.role)
    audit.say(request, f"{user.name}, {body.role}")
    return _out(db.get_one(User, user_id, populate_existing=True))


@router.put("/{user_id}/password", status_code=204, summary="Give a user a new password (administrators)")
def set_password(request: Request, user_id: UserId, body: PasswordIn, db: SessionDep, admin: AdminDep) -> None:
    """Give a user a new password.  The sessions of that user end."""
    user = _find(db, user_id)
    accounts.set_password(db, user.name, body.password, admin=user.is_admin, editor=user.is_editor)
    audit.say(request, user.name)


@router.delete("/{user_id}", status_code=204, summary="Remove a user (administrators)")
def remove_user(request: Request, user_id: UserId, db: SessionDep, admin: AdminDep) -> None:
    """Remove a user, whose sessions end."""
    user = _find(db, user_id)
    if user.id == admin.id:
        raise HTTPException(409, "This is your own account; another administrator can remove it.")
    audit.say(request, user.name)
    try:
        accounts.remove_user(db, user)
    except UserError as error:
        raise HTTPException(409, f"{error}.") from None


@router.get("/{user_id}/sessions", summary="The browsers in which a user is signed in (administrators)")
def read_sessions(user_id: UserId, db: SessionDep, admin: AdminDep) -> list[LoginSessionOut]:
    return [LoginSessionOut(id=one.id, browser=one.browser, created=one.created, expires=one.expires)
            for one in accounts.sessions_of(db, _find(db, user_id).id)]


@router.delete("/{user_id}/sessions", status_code=204, summary="End all sessions of a user (administrators)")
def end_sessions(request: Request, user_id: UserId, db: SessionDep, admin: AdminDep) -> None:
    """End all sessions of a user."""
    user = _find(db, user_id)
    audit.say(request, user.name)
    accounts.end_sessions(db, user.id)


def _find(db: Session, user_id: int) -> User:
    user = db.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no such user.")
    return user


def _out(user: User) -> UserOut:
    return UserOut(id=user.id, name=user.name, role=user.role, password=user.password_hash is not None,
                   created=user.created)
