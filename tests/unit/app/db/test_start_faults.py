"""Tests of the database's faults at the start: one line each, with the remedy."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.engine import make_engine, upgrade
from app.main import create_app
from app.settings import Settings
from sae.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def said(path: Path) -> str:
    engine = make_engine(f"sqlite:///{path}")
    with pytest.raises(UserError) as caught:
        upgrade(engine)
    engine.dispose()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)
    assert said(path).startswith(f"the database {path} is damaged (file is not a database); restore it with "
                                 "'saescope restore', or move it away: SAEs, builds and runs are then found again")


def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    with engine.begin() as connection:
        for number in range(500):
            connection.execute(text("INSERT INTO users (name, is_admin, created) VALUES (:name, 0, 0)"),
                               {"name": f"{number:060}"})
    engine.dispose()
    with sqlite3.connect(path) as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    assert "is damaged (" in said(path)


def test_a_database_of_a_newer_version(path: Path) -> None:
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    engine.dispose()
    assert said(path).startswith(f"the database {path} was written by a newer version of saescope; install that")


def test_a_database_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be written (unable to open database file)" in said(tmp_path / "none" / "app.db")


def test_a_database_server_that_is_away() -> None:
    pytest.importorskip("psycopg")
    engine = make_engine("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(UserError, match=r"DATABASE_URL cannot be used: .*check DATABASE_URL, and that") as caught:
        upgrade(engine)
    assert "\n" not in str(caught.value)


def test_the_program_names_the_fault_too(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    settings = Settings.load(home=tmp_path / "data", demo=False)
    settings.home.mkdir()
    (settings.home / "app.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(UserError, match="is damaged"), TestClient(create_app(settings, supervise=False)):
        pass
