"""Typed dependencies of handlers; everything behind them is opened once in the lifespan of `create_app`.

They are coroutines because FastAPI moves a plain function to another thread and back, which costs more than they do.
A handler that writes to the database commits when its work is complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.access import accounts, tokens
from app.access.anonymous import may_visit
from app.access.audit import mark_change
from app.access.middleware import READ_ONLY, SAFE_METHODS, bearer_secret, count_computing, count_user, limited_pages
from app.db.engine import SessionFactory
from app.db.request_sessions import RequestSessions
from app.db.tables import User
from app.jobs.supervisor import Supervisor
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.settings import Settings
from app.web.errors import SignInNeeded
from app.worker.cached_requests import VisitorRequests
from app.worker.steering_runs import SteeringRuns
from sae.workspace.paths import Workspace


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def get_session(request: Request) -> AsyncIterator[Session]:
    """Yield one database session per request, and roll back what was not committed."""
    async with request.app.state.request_sessions.open() as db:
        yield db


SettingsDep = Annotated[Settings, Depends(get_settings)]
# It ends with the handler, because a client may take long to read the answer.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


async def get_request_sessions(request: Request) -> RequestSessions:
    sessions: RequestSessions = request.app.state.request_sessions
    return sessions


RequestSessionsDep = Annotated[RequestSessions, Depends(get_request_sessions)]


async def current_user(request: Request) -> User | None:
    """Return the signed-in user and keep it in `request.state.user`; without a cookie the database is not queried.

    An API token stands for its user; `request.state.scopes` has its scopes, or None for a browser.  Raises 401 for a
    token that is not valid, and 403 if it lacks the request's scope.
    """
    if not hasattr(request.state, "scopes"):
        request.state.user = request.state.scopes = None
        token = bearer_secret(request.headers)
        if token is not None:
            await run_in_threadpool(_authorise_token, request, token)
            await _count_unsafe(request)
    if request.state.scopes is not None:
        user: User | None = request.state.user
        return user
    secret = request.cookies.get(accounts.COOKIE)
    user = await run_in_threadpool(_session_user, request.app.state.sessions, secret) if secret else None
    request.state.user = user
    await _count_unsafe(request)
    if user is None and not may_visit(request.app.state.settings, request.method, request.url.path):
        raise SignInNeeded
    return user


async def _count_unsafe(request: Request) -> None:
    if request.method not in SAFE_METHODS:
        await count_user(request, request.state.user)


def _authorise_token(request: Request, secret: str) -> None:
    with request.app.state.sessions() as db:
        token = tokens.find_token(db, secret)
        request.state.scopes = frozenset(token.scopes.split()) if token else frozenset()
        if token is None:
            raise HTTPException(401, "This API token is unknown, expired or revoked.", {"WWW-Authenticate": "Bearer"})
        request.state.user = token.user
    need_scope(request, tokens.scope_of(request.method, limited_pages(request.url.path)))


def need_scope(request: Request, scope: str) -> None:
    """Raise 403 if the request comes with an API token that lacks this scope."""
    scopes = request.state.scopes
    if scopes is not None and not scopes & {scope, "admin"}:
        raise HTTPException(403, f"This API token has no scope “{scope}”, which this request needs.")


def _session_user(sessions: SessionFactory, secret: str) -> User | None:
    with sessions() as db:  # a separate session: the user stays readable when the handler's is closed
        user = accounts.session_user(db, secret)
        db.commit()
    return user


UserDep = Annotated[User | None, Depends(current_user)]


async def admin_user(request: Request, user: UserDep) -> User:
    """Return the signed-in administrator.  Signed-out visitors get /login (pages) or 401, other users 403.

    An API token needs the scope `admin`.
    """
    if user is None:
        raise SignInNeeded
    if not user.is_admin:
        raise HTTPException(403, f"{user.name} is not an administrator.")
    need_scope(request, "admin")
    mark_change(request, user)
    return user


async def signed_in_user(user: UserDep) -> User:
    """Return the signed-in user.  Signed-out visitors get /login (pages) or 401."""
    if user is None:
        raise SignInNeeded
    return user


SignedInDep = Annotated[User, Depends(signed_in_user)]


async def editor_user(user: SignedInDep) -> User:
    """Return the signed-in user, who may write.  Signed-out visitors get /login (pages) or 401, readers 403."""
    if not (user.is_editor or user.is_admin):
        raise HTTPException(403, f"{user.name} may read here but not write; an administrator can change that.")
    return user


EditorDep = Annotated[User, Depends(editor_user)]


async def browser_user(request: Request, user: SignedInDep) -> User:
    """Return the user of a signed-in browser.  Raises 403 for an API token, which cannot change its own account."""
    if request.state.scopes is not None:
        raise HTTPException(403, "An account can only be changed in a browser, not with an API token.")
    return user


BrowserUserDep = Annotated[User, Depends(browser_user)]
AdminDep = Annotated[User, Depends(admin_user)]


async def get_workspace(settings: SettingsDep) -> Workspace:
    return settings.workspace


async def get_catalog(request: Request) -> Catalog:
    catalog: Catalog = request.app.state.catalog
    return catalog


async def get_builds(request: Request) -> Builds:
    builds: Builds = request.app.state.builds
    return builds


async def get_supervisor(request: Request) -> Supervisor:
    supervisor: Supervisor = request.app.state.supervisor
    return supervisor


async def get_steering(request: Request) -> SteeringRuns:
    steering: SteeringRuns = request.app.state.steering
    return steering


async def get_cached_requests(request: Request, db: SessionDep, sessions: RequestSessionsDep) -> VisitorRequests:
    """Return the requests to the model worker, which count against the limit of the visitor's address.

    A visitor who waits for the worker holds no connection to the database.
    """
    return VisitorRequests(
        request.app.state.cached_requests, partial(_let_compute, request), partial(sessions.pause, db))


async def _let_compute(request: Request) -> None:
    """Let a visitor's request to the model worker pass.

    Raises 503 in a read-only workspace, SignInNeeded if this visitor may only read, and 429 at the limit of the
    visitor's address or account.
    """
    if request.app.state.read_only:
        raise HTTPException(503, READ_ONLY)
    if request.state.user is None and not request.app.state.settings.open_to_compute:
        raise SignInNeeded
    await count_computing(request)


WorkspaceDep = Annotated[Workspace, Depends(get_workspace)]
CatalogDep = Annotated[Catalog, Depends(get_catalog)]
BuildsDep = Annotated[Builds, Depends(get_builds)]
SupervisorDep = Annotated[Supervisor, Depends(get_supervisor)]
SteeringDep = Annotated[SteeringRuns, Depends(get_steering)]
CachedRequestsDep = Annotated[VisitorRequests, Depends(get_cached_requests)]


@dataclass
class Tools:
    """Everything that an answer about the model needs."""

    db: SessionDep
    catalog: CatalogDep
    builds: BuildsDep
    workspace: WorkspaceDep
    cached_requests: CachedRequestsDep


ToolsDep = Annotated[Tools, Depends(Tools)]
