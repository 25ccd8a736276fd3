"""The app database: engine, sessions, and the upgrade that runs at every start.

The default is SQLite; `postgresql://…` uses psycopg 3.  Everything is synchronous:
handlers that use the database are plain `def` and run in the thread pool.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from app.db import people_tables  # noqa: F401  (so that the metadata has every table, for backups)
from app.db.start_faults import check_pages, named_faults, newer
from app.resources import MIGRATIONS
from sae.errors import UserError

if TYPE_CHECKING:
    from alembic.config import Config

_THREADS = 40  # request threads: each holds at most one connection, so with as many none waits for another

SessionFactory = sessionmaker[Session]


def make_engine(url: str) -> Engine:
    """Make an engine for `url`; SQLite is configured for one writer and many readers.  Raises UserError."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise UserError("DATABASE_URL is not a database address such as postgresql://user@host/name") from None
    if address.get_backend_name() != "sqlite":
        if address.drivername in ("postgresql", "postgres"):
            address = address.set(drivername="postgresql+psycopg")
        try:
            engine = create_engine(address, pool_pre_ping=True, pool_size=10, max_overflow=_THREADS)
        except ModuleNotFoundError as error:
            raise UserError(f"DATABASE_URL needs a driver that is not installed: {error.name}") from None
        if address.drivername == "postgresql+psycopg":
            event.listen(engine, "connect", _prepare_postgres)
        return engine
    engine = create_engine(address, connect_args={"timeout": 10}, pool_size=10, max_overflow=_THREADS)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # With WAL, readers never wait for the writer, and NORMAL is safe if the program crashes.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgres(connection: Any, _record: Any) -> None:
    from psycopg.types.string import StrDumper

    class WithoutNul(StrDumper):
        """A string dumper that replaces NUL: Postgres refuses it, but a log, an address or a form may contain it."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    connection.adapters.register_dumper(str, WithoutNul)


class Changes:
    """A version number of the database that changes with every commit by any process.

    Calling it returns None if the database cannot tell cheaply.  SQLite counts, for each connection, the commits of all
    others, so this object keeps a connection that never writes.
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = Lock()
        self._connection = engine.raw_connection() if engine.dialect.name == "sqlite" else None

    def __call__(self) -> int | None:
        if self._connection is None:
            return None
        with self._lock:
            ((version,),) = self._connection.driver_connection.execute("PRAGMA data_version")  # type: ignore[union-attr]
        return int(version)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def make_session_factory(engine: Engine) -> SessionFactory:
    """Make a factory of sessions whose objects stay readable after commit and after the session is closed."""
    return sessionmaker(engine, expire_on_commit=False)


def alembic_config(engine: Engine) -> Config:
    """Return Alembic's configuration for our migrations; `env.py` takes the engine from `attributes`."""
    from alembic.config import Config  # it takes a fifth of a second, and page workers upgrade nothing

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    return config


def upgrade(engine: Engine) -> None:
    """Upgrade the database to the newest schema; do nothing if it already has it.

    Raises UserError if it cannot be reached or written, is damaged, or belongs to a newer version of the program.
    """
    from alembic import command
    from alembic.util.exc import CommandError

    with named_faults(engine):
        check_pages(engine)
        try:
            command.upgrade(alembic_config(engine), "head")
        except CommandError:
            raise newer(engine) from None
