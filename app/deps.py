"""What handlers may ask for, as typed dependencies; all of it is opened once in `create_app`'s lifespan.

A handler that writes to the database commits by itself, where it knows the work to be whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from sqlalchemy.orm import Session

from app import auth
from app.builds import Builds
from app.catalog import Catalog
from app.errors import SignInNeeded
from app.jobs.supervisor import Supervisor
from app.models import User
from app.questions import Questions
from app.settings import Settings
from app.steering import SteeringRuns
from app.worker.client import WorkerClient
from sae.workspace import Workspace


def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def get_session(request: Request) -> Iterator[Session]:
    """One database session a request; what was not committed is rolled back."""
    with request.app.state.sessions() as db:
        yield db


SettingsDep = Annotated[Settings, Depends(get_settings)]
SessionDep = Annotated[Session, Depends(get_session)]


def current_user(request: Request, db: SessionDep) -> User | None:
    """Who is signed in.  The database is asked only where there is a cookie; templates see `request.state.user`."""
    secret = request.cookies.get(auth.COOKIE)
    user = auth.session_user(db, secret) if secret else None
    db.commit()  # gives the connection back before the handler's own work
    if user is not None:
        db.expunge(user)  # keeps the user readable whatever becomes of the handler's work: error pages name it, too
    request.state.user = user
    return user


UserDep = Annotated[User | None, Depends(current_user)]


def admin_user(user: UserDep) -> User:
    """The signed-in admin.  Signed out: to /login (pages) or 401; signed in without the right: 403."""
    if user is None:
        raise SignInNeeded
    if not user.is_admin:
        raise HTTPException(403, f"{user.name} is not an administrator.")
    return user


def signed_in_user(user: UserDep) -> User:
    """Whoever is signed in.  Signed out: to /login (pages) or 401."""
    if user is None:
        raise SignInNeeded
    return user


SignedInDep = Annotated[User, Depends(signed_in_user)]
AdminDep = Annotated[User, Depends(admin_user)]


def get_workspace(settings: SettingsDep) -> Workspace:
    return settings.workspace


def get_catalog(request: Request) -> Catalog:
    catalog: Catalog = request.app.state.catalog
    return catalog


def get_builds(request: Request) -> Builds:
    builds: Builds = request.app.state.builds
    return builds


def get_worker(request: Request) -> WorkerClient:
    worker: WorkerClient = request.app.state.worker
    return worker


def get_supervisor(request: Request) -> Supervisor:
    supervisor: Supervisor = request.app.state.supervisor
    return supervisor


def get_steering(request: Request) -> SteeringRuns:
    steering: SteeringRuns = request.app.state.steering
    return steering


def get_questions(request: Request) -> Questions:
    questions: Questions = request.app.state.questions
    return questions


WorkspaceDep = Annotated[Workspace, Depends(get_workspace)]
CatalogDep = Annotated[Catalog, Depends(get_catalog)]
BuildsDep = Annotated[Builds, Depends(get_builds)]
WorkerDep = Annotated[WorkerClient, Depends(get_worker)]
SupervisorDep = Annotated[Supervisor, Depends(get_supervisor)]
SteeringDep = Annotated[SteeringRuns, Depends(get_steering)]
QuestionsDep = Annotated[Questions, Depends(get_questions)]


@dataclass
class Tools:
    """What an answer about the model needs: where things are, and whom to ask."""

    db: SessionDep
    catalog: CatalogDep
    builds: BuildsDep
    workspace: WorkspaceDep
    questions: QuestionsDep


ToolsDep = Annotated[Tools, Depends(Tools)]
