"""Tables to one immutable DuckDB file: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sae.glance import glance_path, write_glance
from sae.index.schema import INDEXES, ROW_GROUP, STORAGE_VERSION, TABLES


def write_build(
    path: Path, tables: Mapping[str, Any], meta: dict[str, Any], spill: Path | None = None,
) -> None:
    """Publish a build as `path`; `tables` are Arrow tables or readers, asked for one after the other.
    With `spill`, sorting takes a gigabyte of memory at the most and then that folder.

    Beside it comes what a latent's page shows at first (`sae.glance`).  A build is never replaced: raises
    FileExistsError if it is there.
    """
    if path.exists():
        raise FileExistsError(f"{path} is a finished build; builds are immutable")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    glance = glance_path(temporary)
    for left_behind in path.parent.glob(f"{path.name}.*.*"):  # a run, and so its build, has one process
        left_behind.unlink()
    meta = {**meta, "duckdb_version": duckdb.__version__}
    rows = {"key": list(meta), "value": [json.dumps(value) for value in meta.values()]}
    bounds = {"memory_limit": "1GB", "temp_directory": str(spill)} if spill else {}
    with duckdb.connect(config={"threads": 2, "preserve_insertion_order": False, **bounds}) as con:
        con.execute(f"ATTACH '{_quoted(temporary)}' AS build (STORAGE_VERSION '{STORAGE_VERSION}', "
                    f"ROW_GROUP_SIZE {ROW_GROUP})")
        for name, (columns, order) in TABLES.items():
            con.execute(f"CREATE TABLE build.{name} ({columns})")
            source = pa.table(rows) if name == "meta" else tables.get(name)
            if source is None:
                continue
            con.register("source", source)
            con.execute(f"INSERT INTO build.{name} BY NAME SELECT * FROM source ORDER BY {order}")
            con.unregister("source")
        finish(con, glance, meta["build_id"])
    for written, target in ((glance, glance_path(path)), (temporary, path)):  # the build is there once its own file is
        with open(written, "rb+") as file:
            os.fsync(file.fileno())
        os.rename(written, target)


def finish(con: duckdb.DuckDBPyConnection, glance: Path, build_id: str) -> None:
    """Make the indexes of the attached database `build`, whose tables are filled, and the file `glance`; detach it."""
    for statement in INDEXES:
        con.execute(statement)
    write_glance(con, glance, build_id)
    con.execute("CHECKPOINT build")
    con.execute("DETACH build")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
