"""The tables of a build, as DuckDB understands them."""

from __future__ import annotations

import re
from itertools import pairwise

import duckdb

from sae.store.records import FLAGS, Latent
from sae.store.schema import BANDS, CONTEXT_COLUMNS, CONTEXT_VIEW, INDEXES, NEAR_BAND, TABLES, TOP_BAND


def build() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("ATTACH ':memory:' AS build")
    for name, (columns, _) in TABLES.items():
        con.execute(f"CREATE TABLE build.{name} ({columns})")
    return con


def types(columns: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in (part.split() for part in columns.split(","))]


def described(con: duckdb.DuckDBPyConnection, name: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in con.execute(f"DESCRIBE {name}").fetchall()]


def test_the_view_of_contexts_has_its_columns_and_slices_the_text() -> None:
    with build() as con:
        for statement in INDEXES:
            con.execute(statement)
        con.execute("USE build")
        con.execute(CONTEXT_VIEW)
        assert described(con, "context") == types(CONTEXT_COLUMNS)
        con.execute("INSERT INTO text VALUES (5, [10, 11, 12, 13, 14])")
        for first, n, shown in ((0, 5, [10, 11, 12, 13, 14]), (2, 2, [12, 13]), (4, 1, [14])):
            con.execute("DELETE FROM place")
            con.execute("INSERT INTO place (latent, text, first, n) VALUES (1, 5, ?, ?)", [first, n])
            assert con.execute("SELECT latent, tokens FROM context").fetchall() == [(1, shown)]


def test_every_table_can_be_sorted_by_its_order() -> None:
    with build() as con:
        for name, (columns, order) in TABLES.items():
            assert described(con, f"build.{name}") == types(columns)
            assert con.execute(f"FROM build.{name} ORDER BY {order}").fetchall() == []


def test_a_latents_flags_and_facts_are_columns() -> None:
    names = {name for name, _ in types(TABLES["latent"][0])}
    assert set(FLAGS) < names
    lists = {"flags", "rule", "hist_edges", "logit_edges"}  # made of several columns, or of another table
    assert set(Latent.__dataclass_fields__) - lists < names


def test_bands_have_distinct_numbers_and_do_not_overlap() -> None:
    numbers = [TOP_BAND, *(band for band, *_ in BANDS), NEAR_BAND]
    assert numbers == sorted(set(numbers))
    bounds = sorted((low, high) for _, _, low, high in BANDS)
    assert bounds[0][0] == 0
    assert all(high == low for (_, high), (low, _) in pairwise(bounds))
    assert all(re.fullmatch("[a-z ]+", name) for _, name, *_ in BANDS)
