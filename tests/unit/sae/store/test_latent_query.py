"""Lists of latents: their SQL against sorting and filtering by hand, and cursors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.errors import UserError
from sae.store.latent_page import neighbours
from sae.store.latent_query import (
    ALIVE,
    DENSITIES,
    LOGIT_SORT,
    SCORE_SORT,
    SORTS,
    Filters,
    build_query,
    decode_cursor,
    density_clause,
    encode_cursor,
    sort_value,
)
from sae.store.schema import TABLES

COLUMNS = {"density": "density", "max": "max_act", "skew": "skew_act", "rule": "rule_f1"}
NUMBERS = (None, math.nan, 0.0, 0.25, 0.5, -1.0)  # few, so that many latents are equal
TOKEN, OTHER = 7, 8
Row = dict[str, Any]


def random_rows(n: int = 40) -> list[Row]:
    random = Random(0)
    return [{**{column: random.choice(NUMBERS) for column in (*COLUMNS.values(), "cosine")},
             "rule_f1": random.choice((None, 0.0, 0.25, 1.0)),  # never NaN
             "density": random.choice([None, 0.0, 5e-6, 1e-5, 0.25]), "dead": random.random() < 0.3,
             "rare": random.random() < 0.3, "token_n": random.choice([None, 1, 2])} for _ in range(n)]


ROWS = random_rows()


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a database with the rows."""
    with duckdb.connect() as con:
        for name in ("latent", "token_latent"):
            con.execute(f"CREATE TABLE {name} ({TABLES[name][0]})")
        names = ["latent", *COLUMNS.values(), "dead", "rare", "nearest_cos", "logit_pos", "logit_pos_value"]
        con.executemany(f"INSERT INTO latent ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", [
            [number, *(row[column] for column in COLUMNS.values()), row["dead"], row["rare"], row["cosine"],
             [TOKEN, OTHER], [number % 3, 9.0]] for number, row in enumerate(ROWS)])
        con.executemany("INSERT INTO token_latent (token, latent, n) VALUES (?, ?, ?)", [
            pair for number, row in enumerate(ROWS) if row["token_n"]
            for pair in ([TOKEN, number, row["token_n"]], [OTHER, number, 99])])
        yield con


def by_hand(sort: str, filters: Filters, token: int | None) -> dict[int, float | None]:
    """Return the sort's number of every latent of the list, or None if it is missing."""
    scores = dict(filters.scores)
    found = {}
    for number, row in enumerate(ROWS):
        low, high = DENSITIES[filters.density] if filters.density else (None, None)
        density = row["density"]
        if filters.density and (density is None or (math.isnan(density) and high is not None) or not density > 0
                                or (low is not None and density < low) or (high is not None and density >= high)):
            continue
        if any(row["dead"] if flag == ALIVE else not row[flag] for flag in filters.flags):
            continue
        if (token is not None and not row["token_n"]) or (filters.among is not None and number not in filters.among):
            continue
        value = {LOGIT_SORT: number % 3, SCORE_SORT: scores.get(number), "latent": number, "token": row["token_n"],
                 "cosine": row["cosine"]}[sort] if sort not in COLUMNS else row[COLUMNS[sort]]
        found[number] = None if value is None or math.isnan(value) else float(value)
    return found


class Rows:
    """A build of which only the queries are used."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        found = self._con.execute(sql, list(parameters))
        names = [name for name, *_ in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@settings(max_examples=60)
@given(sort=st.sampled_from([*COLUMNS, "latent", "cosine", "token", LOGIT_SORT, SCORE_SORT]), descending=st.booleans(),
       flags=st.frozensets(st.sampled_from([ALIVE, "rare"])), density=st.sampled_from(["", "1e-5", "1e-4", "1"]),
       among=st.none() | st.frozensets(st.integers(-1, 50), min_size=5), at=st.integers(0, 40))
def test_a_list_is_sorted_and_cut_as_by_hand(
    con: duckdb.DuckDBPyConnection, sort: str, descending: bool, flags: frozenset[str], density: str,
    among: frozenset[int] | None, at: int,
) -> None:
    filters = Filters(flags, density, among, TOKEN if sort == LOGIT_SORT else None,
                      ((1, 0.5), (3, 0.25), (30, 0.25), (99, 1.0)) if sort == SCORE_SORT else ())
    token = TOKEN if sort == "token" else None
    found = by_hand(sort, filters, token)
    sign = -1 if descending else 1
    expected = sorted(found, key=lambda i: (found[i] is None, sign * (found[i] or 0.0), i))
    raised = range(len(ROWS)), [float(number % 3) for number in range(len(ROWS))]
    query = build_query(sort, descending, filters, token, raised, numbers_only=sort == "rule")
    listed = con.execute(f"SELECT l.latent, {query.key} FROM {query.source}{query.where}{query.order()}",
                         query.parameters).fetchall()
    assert [latent for latent, _ in listed] == expected
    assert [sort_value(key) for _, key in listed] == [found[latent] for latent in expected]
    if not listed:
        return
    at %= len(listed)
    latent, key = listed[at]
    condition, values = query.beyond(key, latent)
    where = f"{query.where} AND {condition}" if query.clauses else f" WHERE {condition}"
    beyond = con.execute(f"SELECT l.latent FROM {query.source}{where}{query.order()}",
                         [*query.parameters, *values]).fetchall()
    assert [i for (i,) in beyond] == expected[at + 1 :]
    assert neighbours(Rows(con), query, key, latent) == (  # type: ignore[arg-type]
        expected[at - 1] if at else None, expected[at + 1] if at + 1 < len(expected) else None)


@pytest.mark.parametrize("name", SORTS)
def test_every_sort_is_a_column_of_its_tables(con: duckdb.DuckDBPyConnection, name: str) -> None:
    query = build_query(name, False, Filters(), TOKEN)
    listed = con.execute(f"SELECT l.latent FROM {query.source}{query.where}", query.parameters).fetchall()
    assert sorted(latent for (latent,) in listed) == [i for i, row in enumerate(ROWS) if row["token_n"]]


def test_every_density_above_0_is_in_one_decade(con: duckdb.DuckDBPyConnection) -> None:
    bounds = {bound for bounds in DENSITIES.values() for bound in bounds if bound is not None}
    for density in [0.0, 1e-300, 1.0, *bounds, *(math.nextafter(bound, 0) for bound in bounds)]:
        clauses = ", ".join(density_clause(name) for name in DENSITIES)
        inside = con.execute(f"SELECT {clauses} FROM (SELECT ?::DOUBLE AS density) l", [density]).fetchone()
        assert inside is not None
        assert inside.count(True) == (density > 0)
        if density in bounds:  # the lower bound belongs to its decade
            assert DENSITIES[[*DENSITIES][inside.index(True)]][0] == density


def test_unknown_flags_densities_and_sorts_are_refused_by_name() -> None:
    for field, make in (("flag", lambda: Filters(frozenset({"nice"}))), ("density", lambda: Filters(density="2")),
                        ("sort", lambda: build_query("token", False, Filters(), None)),
                        ("sort", lambda: build_query(LOGIT_SORT, False, Filters(), None)),
                        ("sort", lambda: build_query(SCORE_SORT, False, Filters(), None))):
        with pytest.raises(UserError, match=f"^{field}: ") as caught:
            make()
        assert caught.value.field == field


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**31 - 1))
def test_cursors_survive_exactly(key: float, latent: int) -> None:
    assert decode_cursor(encode_cursor(key, latent)) == (key, latent)
