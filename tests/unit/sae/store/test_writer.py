"""A build file is written sorted, whole or not at all, and never replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from sae.store.page_file import page_file_path
from sae.store.schema import INDEXES, TABLES
from sae.store.writer import meta_table, new_build, write_build

META = {"build_id": "b", "n_latents": 2, "odd": [None, "é", 0.5]}


def context(latent: int, rank: int, tokens: list[int]) -> dict[str, Any]:
    return {"latent": latent, "band": 0, "rank": rank, "act": 1.0, "ctx": rank, "doc": 0, "doc_offset": 0, "start": 0,
            "peak": 0, "tokens": tokens, "pos": [0], "val": [1.0], "duplicates": 1}


def tables() -> dict[str, pa.Table]:
    return {"latent": pa.Table.from_pylist([
                {"latent": 1, "n_tokens": 3, "neighbour_cos": [0.5, 0.25]},
                {"n_tokens": 5, "latent": 0, "neighbour_cos": []}]),
            "token_latent": pa.Table.from_pylist([
                {"token": t, "latent": i, "n": n} for t, i, n in ((2, 0, 1), (1, 1, 4), (1, 0, 9), (1, 2, 4))]),
            "token": pa.Table.from_pylist([{"token": 10, "piece": b"a"}]),
            "context": pa.Table.from_pylist([context(1, 0, [10]), context(0, 1, [10, 10]), context(0, 0, [])])}


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(query).fetchall()


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("name", ["b.duckdb", "it's.duckdb"])
def test_a_build_has_all_tables_sorted_its_indexes_and_its_page_file(
    tmp_path: Path, name: str, spilled: bool
) -> None:
    path = tmp_path / "new" / name
    write_build(path, tables(), META, spill=tmp_path if spilled else None)
    assert {name for (name,) in rows(path, "SELECT table_name FROM duckdb_tables()")} == set(TABLES)
    assert len(rows(path, "FROM duckdb_indexes()")) == len(INDEXES)
    assert rows(path, "SELECT latent, n_tokens, nearest_cos FROM latent") == [(0, 5, None), (1, 3, 0.5)]
    assert rows(path, "SELECT token, latent FROM token_latent") == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert rows(path, "SELECT latent, rank, tokens FROM context ORDER BY latent, rank") == [
        (0, 0, []), (0, 1, [10, 10]), (1, 0, [10])]
    assert rows(path, "SELECT value FROM meta WHERE key = 'odd'") == [('[null, "\\u00e9", 0.5]',)]
    assert rows(path, "SELECT value FROM meta WHERE key = 'duckdb_version'") == [(f'"{duckdb.__version__}"',)]
    assert sorted(path.parent.iterdir()) == sorted([path, page_file_path(path)])


def test_contexts_written_in_parts_get_texts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "b.duckdb"
    with new_build(path, sort=False) as write:
        write("context", pa.Table.from_pylist([context(0, 0, [1]), context(0, 1, [2])]))
        write("context", pa.Table.from_pylist([context(1, 0, [3])]))
        write("meta", meta_table(META))
    assert rows(path, "SELECT latent, rank, tokens FROM context ORDER BY ALL") == [
        (0, 0, [1]), (0, 1, [2]), (1, 0, [3])]
    assert rows(path, "SELECT count(*), count(DISTINCT text) FROM text") == [(3, 3)]


def test_a_build_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "b.duckdb"
    write_build(path, tables(), META)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="immutable"):
        write_build(path, tables(), META | {"build_id": "other"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("fault", ["column", "meta", "caller"])
def test_a_fault_leaves_nothing(tmp_path: Path, fault: str) -> None:
    def write_all() -> None:
        with new_build(tmp_path / "b.duckdb", sort=True) as write:
            write("latent", pa.table({"latent": [1], **({"no such column": [1]} if fault == "column" else {})}))
            if fault == "caller":
                raise KeyboardInterrupt
            write("meta", meta_table({} if fault == "meta" else META))

    with pytest.raises((duckdb.Error, ValueError, KeyboardInterrupt)):
        write_all()
    assert list(tmp_path.iterdir()) == []
