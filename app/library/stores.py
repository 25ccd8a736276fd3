"""The open stores of a process that makes pages: database, catalog and builds."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.datastructures import State

from app.db.engine import Changes, make_engine, make_session_factory
from app.db.request_sessions import RequestSessions
from app.db.start_faults import named_faults
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.settings import Settings


def open_stores(state: State, settings: Settings, stack: ExitStack) -> None:
    """Set `settings`, `engine`, `sessions`, `request_sessions`, `catalog` and `builds`; `stack` closes them.

    The database keeps its schema: only the server upgrades it.
    """
    engine = make_engine(settings.url)
    stack.callback(engine.dispose)
    with named_faults(engine):
        engine.connect().close()  # `Changes` would raise the driver's own errors
        changes = Changes(engine)
    stack.callback(changes.close)
    sessions = make_session_factory(engine)
    builds = Builds(settings.workspace)
    stack.callback(builds.close)
    state.settings, state.engine, state.sessions = settings, engine, sessions
    state.request_sessions = RequestSessions(sessions)
    state.catalog, state.builds = Catalog(settings.workspace, sessions, changes), builds
