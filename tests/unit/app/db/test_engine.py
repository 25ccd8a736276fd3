"""Tests of the app database: the migrations agree with the tables, and SQLite allows readers next to a writer."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from app.access import accounts
from app.db.engine import SessionFactory, alembic_config, make_engine, upgrade
from app.db.tables import Base, Run
from app.library import labels
from sae.errors import UserError
from tests import postgres


def _differences(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        return list(compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata))


def test_upgrade_gives_exactly_the_models(engine: Engine) -> None:
    assert _differences(engine) == []


def test_down_and_up_again(engine: Engine) -> None:
    command.downgrade(alembic_config(engine), "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    upgrade(engine)
    assert _differences(engine) == []
    upgrade(engine)  # a second start changes nothing


def test_sqlite_is_set_up(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("this database is not SQLite")
    with engine.connect() as connection:
        values = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys")}
    assert values == {"journal_mode": "wal", "foreign_keys": 1}


@pytest.mark.parametrize("url", ["nonsense", "postgresql:/x y"])
def test_a_wrong_address_is_an_error_of_one_line(url: str) -> None:
    with pytest.raises(UserError, match="DATABASE_URL"):
        make_engine(url)


def test_a_nul_character_breaks_no_database(sessions: SessionFactory) -> None:
    with sessions() as db:
        labels.save(db, "demo/one", 3, "ada", text="before\0after", note="\0")
        labels.save(db, "demo/one", 4, "ada", text="before another")
    with sessions() as db:
        assert [row.latent for row in labels.search(db, "e\0a")] == [4, 3]
        assert [row.latent for row in labels.search(db, "after")] == [3]
        assert db.get(Run, "run\0") is None
        assert accounts.check_password(db, "ada\0", "correct horse") is None


def test_postgres(request: pytest.FixtureRequest) -> None:
    """Show in the summary of a test run whether the tests also ran on Postgres."""
    if not postgres.available():
        pytest.skip("Postgres is not installed here: the tests of the app database ran on SQLite alone")
    engine = make_engine(request.getfixturevalue("postgres_server"))
    assert engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
