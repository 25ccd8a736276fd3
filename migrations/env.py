"""Alembic's environment: it uses the program's engine, or DATABASE_URL when it is run by hand."""

from __future__ import annotations

from alembic import context

from app.db.engine import make_engine
from app.db.tables import Base
from app.settings import Settings


def run() -> None:
    engine = context.config.attributes.get("engine") or make_engine(Settings.load().url)
    with engine.connect() as connection:
        # SQLite cannot alter a table in place: Alembic writes the new table and moves the rows.
        context.configure(
            connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


run()
