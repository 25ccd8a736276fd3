"""A workspace that cannot be written: its database is copied, and the copy can only be read.

A database in SQLite's WAL mode cannot be opened in a folder without the right to write, so a copy is needed.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from app.db.engine import make_engine, make_session_factory, upgrade
from app.library.catalog import Catalog
from app.settings import Settings


def with_readable_database(settings: Settings, stack: ExitStack) -> Settings:
    """Return the settings with the address of a copy of the workspace's database, which `stack` removes.

    The copy has the newest schema and the SAEs that are in the folders now.  Another database stays where it is.
    Raises UserError if the database is damaged or of a newer version.
    """
    if settings.database_url:
        return settings
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saescope-"))) / "app.db"
    if settings.workspace.database.exists():
        _copy(settings.workspace.database, path)
    engine = make_engine(f"sqlite:///{path}")
    try:
        upgrade(engine)
        Catalog(settings.workspace, make_session_factory(engine)).sync()
    finally:
        engine.dispose()
    return settings.model_copy(update={"database_url": f"sqlite:///file:{path}?mode=ro&uri=true"})


def _copy(source: Path, target: Path) -> None:
    """Copy a database with the changes that are still in its log; a server elsewhere may be writing it."""
    try:
        with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as old, closing(
                sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error:  # no server has it open, so nobody changes the files
        for end in ("", "-wal"):
            file = source.with_name(f"{source.name}{end}")
            target.with_name(f"{target.name}{end}").unlink(missing_ok=True)
            if file.exists():
                shutil.copyfile(file, target.with_name(f"{target.name}{end}"))
