"""Writing of tables into one immutable DuckDB file, which is synced and renamed when it is complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sae.store.arrow_columns import arrow_table
from sae.store.page_file import page_file_path, write_page_file
from sae.store.schema import CONTEXT_VIEW, INDEXES, ROW_GROUP, STORAGE_VERSION, TABLES
from sae.workspace.files import atomic_write

CONTEXT = "context"


def write_build(
    path: Path, tables: Mapping[str, Any], meta: dict[str, Any], spill: Path | None = None,
) -> None:
    """Publish a build as `path`; `tables` are Arrow tables or readers, read one after the other and sorted here.

    They may include `context`, the rows of its view.  With `spill`, sorting takes at most a gigabyte of memory and
    spills to that folder.
    """
    with new_build(path, sort=True, spill=spill) as write:
        for name in (*TABLES, CONTEXT):
            if (source := tables.get(name)) is not None:
                write(name, source)
        write("meta", meta_table(meta))


def meta_table(meta: dict[str, Any]) -> pa.Table:
    meta = dict(sorted((meta | {"duckdb_version": duckdb.__version__}).items()))
    return arrow_table({"key": list(meta), "value": [json.dumps(value) for value in meta.values()]})


@contextmanager
def new_build(path: Path, *, sort: bool, spill: Path | None = None) -> Iterator[Callable[[str, Any], None]]:
    """Yield a function that writes one table of the build; tables may come in any order.

    The build is published as `path` at the end of the block, with its page file (`sae.store.page_file`).  With `sort`
    the rows of each table are sorted here, otherwise they must be in the order of the schema.  A build is never
    replaced: raises FileExistsError if it exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} is a finished build; builds are immutable")
    # The build file gets its name last, since it makes the build exist.
    with atomic_write(path) as temporary, atomic_write(page_file_path(path)) as page_file, ExitStack() as stack:
        # Opened with the first table.
        filling = cache(lambda: stack.enter_context(_filling(temporary, page_file, sort, spill)))
        yield lambda name, source: filling()(name, source)
        filling()


@contextmanager
def _filling(
    file: Path, page_file: Path, sort: bool, spill: Path | None
) -> Iterator[Callable[[str, Any], None]]:
    """Make a new database with all tables and yield the function that fills them; then write the page file from it."""
    bounds = {"memory_limit": "1GB", "temp_directory": str(spill)} if spill else {}
    with duckdb.connect(config={"threads": 2, "preserve_insertion_order": not sort, **bounds}) as con:
        con.execute(f"ATTACH '{_quoted(file)}' AS build (STORAGE_VERSION '{STORAGE_VERSION}', "
                    f"ROW_GROUP_SIZE {ROW_GROUP})")
        for name, (columns, _) in TABLES.items():
            con.execute(f"CREATE TABLE build.{name} ({columns})")

        def write(name: str, source: Any) -> None:
            if not sort and isinstance(source, pa.Table):  # each thread takes whole row groups
                source = pa.Table.from_batches(source.to_batches(max_chunksize=ROW_GROUP), source.schema)
            con.register("source", source)
            if name == CONTEXT:
                write_contexts(con, "source")
            else:
                more = ", neighbour_cos[1] AS nearest_cos" if "neighbour_cos" in con.table("source").columns else ""
                con.execute(f"INSERT INTO build.{name} BY NAME SELECT *{more} FROM source"
                            + (f" ORDER BY {TABLES[name][1]}" if sort else ""))
            con.unregister("source")

        yield write
        finish(con, page_file)


def write_contexts(con: duckdb.DuckDBPyConnection, source: str) -> None:
    """Write rows of `context`, each with its own text.  `source` is a table's name or a query in brackets."""
    con.execute(f"CREATE TEMP TABLE given AS SELECT *, row_number() OVER (ORDER BY latent, band, rank)"
                f" + (SELECT count(*) FROM build.text) AS text FROM {source}")
    con.execute("INSERT INTO build.text SELECT text, tokens FROM given ORDER BY text")
    con.execute("INSERT INTO build.place BY NAME SELECT * EXCLUDE (tokens), 0 AS first, len(tokens) AS n FROM given"
                f" ORDER BY {TABLES['place'][1]}")
    con.execute("DROP TABLE given")


def finish(con: duckdb.DuckDBPyConnection, page_file: Path) -> None:
    """Make the indexes, the view and the page file of the attached database `build`, and detach it.

    Its tables must be filled.
    """
    for statement in INDEXES:
        con.execute(statement)
    con.execute("USE build")
    con.execute(CONTEXT_VIEW)
    con.execute("USE memory")
    ((build_id,),) = con.execute("SELECT value FROM build.meta WHERE key = 'build_id'").fetchall()
    write_page_file(con, page_file, json.loads(build_id))
    con.execute("CHECKPOINT build")
    con.execute("DETACH build")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
