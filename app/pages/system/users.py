"""Admin ▸ Users: who may sign in, with what role and password, and from which browsers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi import Path as PathPart
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.access import accounts, audit
from app.db.tables import LoginSession, User
from app.pages.dependencies import AdminDep, SessionDep, admin_user
from app.web.templating import render
from sae.errors import UserError

router = APIRouter(prefix="/admin/users", dependencies=[Depends(admin_user)], include_in_schema=False)

UserId = Annotated[int, PathPart(lt=2**31)]
Role = Annotated[str, Form(max_length=40)]
Secret = Annotated[str, Form(max_length=2000)]


@router.get("")
def list_users(request: Request, me: AdminDep, db: SessionDep) -> Response:
    """List the users, with the form that adds one."""
    return _list(request, me, db)


@router.post("/save")
def add_user(
    request: Request, me: AdminDep, db: SessionDep, name: Annotated[str, Form(max_length=200)] = "",
    password: Secret = "", role: Role = "", admin: Annotated[str, Form()] = "",
) -> Response:
    """Add a user.  `admin` is the old form of `role=administrator`, accepted for one release."""
    chosen = role or ("administrator" if admin else "editor")
    try:
        accounts.add_user(db, name, password, chosen)
    except UserError as error:
        return _list(request, me, db, error, name, chosen)
    audit.say(request, f"{name.strip()}, {chosen}")
    return RedirectResponse("/admin/users", 303)


@router.get("/{user_id}")
def show_user(request: Request, user_id: UserId, me: AdminDep, db: SessionDep) -> Response:
    """Show one user: role, password, sessions."""
    return _user_page(request, me, db, _find(db, user_id))


@router.post("/{user_id}/password")
def set_password(
    request: Request, user_id: UserId, me: AdminDep, db: SessionDep, password: Secret = ""
) -> Response:
    """Give a user a new password.  The sessions of that user end."""
    user = _find(db, user_id)
    try:
        accounts.set_password(db, user.name, password, admin=user.is_admin, editor=user.is_editor)
    except UserError as error:
        return _user_page(request, me, db, user, error)
    audit.say(request, user.name)
    return RedirectResponse(f"/admin/users/{user_id}", 303)


@router.post("/{user_id}/role")
def set_role(
    request: Request, user_id: UserId, me: AdminDep, db: SessionDep, role: Role = "",
    admin: Annotated[str, Form()] = "",
) -> Response:
    """Give a user another role.  `admin` is the old form of `role=administrator`, accepted for one release."""
    user = _find(db, user_id)
    chosen = role or ("administrator" if admin else "editor")
    try:
        accounts.set_role(db, user, chosen)
    except UserError as error:
        return _user_page(request, me, db, user, error)
    audit.say(request, f"{user.name}, {chosen}")
    return RedirectResponse(f"/admin/users/{user_id}" if user.id != me.id else "/account", 303)


@router.post("/{user_id}/sessions/end")
def end_sessions(
    request: Request, user_id: UserId, db: SessionDep, session: Annotated[str, Form(max_length=64)] = ""
) -> Response:
    """End one session of a user, or all of them."""
    found = db.get(User, user_id)
    audit.say(request, found.name if found else "")
    if session:
        accounts.end_session(db, user_id, session)
    else:
        accounts.end_sessions(db, user_id)
    return RedirectResponse(f"/admin/users/{user_id}#sessions", 303)


@router.get("/{user_id}/delete")
def ask_delete(request: Request, user_id: UserId, db: SessionDep) -> Response:
    """Ask for confirmation on a page, which works without JavaScript."""
    return render(request, "system/delete_user.html", section="admin", one=_find(db, user_id))


@router.post("/{user_id}/delete")
def delete_user(
    request: Request, user_id: UserId, me: AdminDep, db: SessionDep, sure: Annotated[str, Form()] = ""
) -> Response:
    """Remove a user, whose sessions end.  Raises 409 for one's own account and for the last administrator."""
    user = _find(db, user_id)
    if user.id == me.id:
        raise HTTPException(409, "You are signed in as this user; sign in as another administrator to remove it.")
    if sure != "yes":
        return RedirectResponse(f"/admin/users/{user_id}/delete", 303)
    try:
        audit.say(request, user.name)
        accounts.remove_user(db, user)
    except UserError as error:
        raise HTTPException(409, f"{error}.") from None
    return RedirectResponse("/admin/users", 303)


def _find(db: Session, user_id: int) -> User:
    user = db.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no such user.")
    return user


def _list(
    request: Request, me: User, db: Session, error: UserError | None = None, name: str = "",
    role: str = "editor",
) -> Response:
    counts = select(LoginSession.user_id, func.count()).group_by(LoginSession.user_id)
    return render(
        request, "system/users.html", 422 if error else 200, section="admin", me=me, error=error, user_name=name,
        user_role=role, roles=accounts.ROLES,
        anonymous=request.app.state.settings.anonymous, users=list(db.scalars(select(User).order_by(User.name))),
        sessions_open={row[0]: row[1] for row in db.execute(counts)}, min_password=accounts.MIN_PASSWORD)


def _user_page(
    request: Request, me: User, db: Session, user: User, error: UserError | None = None
) -> Response:
    return render(
        request, "system/user.html", 422 if error else 200, section="admin", me=me, one=user, roles=accounts.ROLES,
        error=error,
        sessions=accounts.sessions_of(db, user.id), here=accounts.hash_secret(request.cookies.get(accounts.COOKIE, "")),
        min_password=accounts.MIN_PASSWORD)
