"""Migrations and models say the same; the database is set up for one writer among readers."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from app.db import alembic_config, make_engine, upgrade
from app.models import Base
from sae.errors import UserError


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
    with engine.connect() as connection:
        values = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys")}
    assert values == {"journal_mode": "wal", "foreign_keys": 1}


@pytest.mark.parametrize("url", ["nonsense", "postgresql:/x y"])
def test_a_wrong_address_is_told_in_one_line(url: str) -> None:
    with pytest.raises(UserError, match="DATABASE_URL"):
        make_engine(url)
