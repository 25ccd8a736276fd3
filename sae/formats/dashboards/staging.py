"""Conversion of a dashboard's records, in any order, to a build's tables, by way of a DuckDB file.  No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from sae.errors import UserError
from sae.formats import untrusted_json
from sae.formats.dashboards.records import Dashboard, Example, Explained, Feature, Record
from sae.formats.token_text import has_stand_ins, own_piece, stand_in_piece, text_piece
from sae.formats.writers.neuronpedia import SCALARS
from sae.store.records import DENSE_DENSITY, FLAGS, RARE_TOKENS

_BLOCK = 2048  # rows collected before they are written
_MAX_VOCABULARY = 4_000_000
_ROWS = 8192

_INTS, _UINTS = pa.list_(pa.int32()), pa.list_(pa.uint32())
_FLOATS, _DOUBLES = pa.list_(pa.float32()), pa.list_(pa.float64())
_SCHEMAS = {
    "latent": pa.schema([
        ("latent", pa.int32()), *((name, pa.float64()) for name in SCALARS), ("max_act", pa.float32()),
        ("hist", _UINTS), ("logit_hist", _UINTS), *((flag, pa.bool_()) for flag in FLAGS),
        *((f"{side}{part}", kind) for side in ("logit_pos", "logit_neg") for part, kind in (
            ("", _INTS), ("_value", _FLOATS))),
        ("neighbours", _INTS), ("neighbour_cos", _FLOATS),
        ("top_tokens", _INTS), ("top_token_n", pa.list_(pa.int64())), ("top_token_lift", _FLOATS),
        ("top_token_max", _FLOATS), ("next_tokens", _INTS), ("next_token_n", pa.list_(pa.int64())),
        ("next_token_lift", _FLOATS)]),
    "latent_edges": pa.schema([("latent", pa.int32()), ("hist_edges", _DOUBLES), ("logit_edges", _DOUBLES)]),
    "context": pa.schema([
        ("seq", pa.int64()), ("latent", pa.int32()), ("band", pa.int32()), ("low", pa.float64()),
        ("high", pa.float64()), ("act", pa.float32()), ("largest", pa.float32()), ("ctx", pa.int64()),
        ("doc", pa.int32()), ("doc_offset", pa.int64()), ("start", pa.int32()), ("peak", pa.int32()),
        ("tokens", _INTS), ("pos", _INTS), ("val", _FLOATS), ("duplicates", pa.int32())]),
    "explanation": pa.schema([("latent", pa.int32()), ("text", pa.string()), ("author", pa.string())]),
}

# Contexts of a group with the same text become one row, unless the file has counted them itself.  Groups are sorted
# by falling values.  Contexts of a group are sorted by falling activation, or keep their order in our own files.
# Latents that are silent in all their contexts have no rows.
_CONTEXTS = """
WITH grouped AS (
  SELECT *, coalesce(band, CASE WHEN low IS NULL OR low < 0 THEN 0 ELSE dense_rank() OVER (
    PARTITION BY latent, low IS NULL OR low < 0 ORDER BY high DESC, low DESC) END) AS g,
    CASE WHEN duplicates IS NULL THEN hash(tokens) ELSE hash(seq) END AS text,
    max(largest) OVER (PARTITION BY latent) AS strongest
  FROM context),
single AS (
  SELECT *, count(*) OVER (PARTITION BY latent, g, text) AS copies,
    row_number() OVER (PARTITION BY latent, g, text ORDER BY act DESC, seq) AS nth FROM grouped)
SELECT latent, g AS band, row_number() OVER (PARTITION BY latent, g ORDER BY CASE WHEN duplicates IS NULL THEN act
    ELSE 0 END DESC, seq) - 1 AS rank, act, coalesce(ctx, seq) AS ctx, coalesce(doc, -1) AS doc,
  coalesce(doc_offset, 0) AS doc_offset, start, peak, tokens, pos, val, coalesce(duplicates, copies) AS duplicates
FROM single WHERE nth = 1 AND g < 256 AND (g > 0 OR act > 0) AND strongest > 0"""
# The maximum is the larger of the file's and of the contexts'.  A latent with contexts but without a row gets a row.
# A density of 0 for a latent that fires was rounded, so it becomes null.
_LATENTS = """
WITH shown AS (SELECT latent, max(largest) AS top, sum(len(pos)) AS firings FROM context GROUP BY latent)
SELECT l.* REPLACE (coalesce(l.latent, s.latent) AS latent, greatest(l.max_act, s.top) AS max_act,
  CASE WHEN l.density = 0 AND s.firings > 0 THEN NULL ELSE l.density END AS density,
  CASE WHEN coalesce(l.dead, false) AND coalesce(s.firings, 0) > 0 THEN false
    ELSE coalesce(l.dead, coalesce(s.firings, 0) = 0) END AS dead)
FROM latent l FULL JOIN shown s ON l.latent = s.latent"""
_TOKEN_LATENTS = """
SELECT tokens[p + 1] AS token, latent, count(*) AS n, max(v) AS max_act, NULL::FLOAT AS lift
FROM (SELECT latent, tokens, unnest(pos) AS p, unnest(val) AS v FROM context) GROUP BY token, latent"""


class Staging:
    """A collector of records that makes tables.  It is a context manager that closes its database file."""

    def __init__(self, folder: Path, dashboard: Dashboard) -> None:
        self._con = duckdb.connect(str(folder / "staging.duckdb"), config={"threads": 2, "memory_limit": "1GB"})
        for name, schema in _SCHEMAS.items():
            self._con.register("empty", schema.empty_table())
            self._con.execute(f"CREATE TABLE {name} AS SELECT * FROM empty")
            self._con.unregister("empty")
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _SCHEMAS}
        self._tokens: dict[str, int] = {}
        self._documents: dict[str, int] = {}
        self._escaped = dashboard.escaped
        self._stand_ins = not self._escaped and has_stand_ins(dashboard.sample())
        self._total = (dashboard.n_prompts or 0) * (dashboard.context_length or 0) or None
        self._seq = self._last = 0

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def add(self, record: Record) -> None:
        """Add a record.  Raises UserError for more tokens than a vocabulary can have."""
        self._last = max(self._last, record.latent)
        if isinstance(record, Feature):
            self._put("latent", self._latent(record))
            edges = [bins.edges() if bins else [] for bins in (record.acts, record.logits)]
            if any(edges):
                self._put("latent_edges", {
                    "latent": record.latent, "hist_edges": edges[0] or None, "logit_edges": edges[1] or None})
        elif isinstance(record, Example):
            self._put("context", self._context(record))
        elif isinstance(record, Explained) and record.text:
            self._put("explanation", {"latent": record.latent, "text": record.text, "author": record.author})

    def tables(self) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the tables as Arrow readers, and the entries that they add to `meta`.

        The tables must be read while this object is open.  Raises UserError for a repeated latent.
        """
        for name in self._rows:
            self._flush(name)
        (repeated,) = self._con.execute(
            "SELECT latent FROM latent GROUP BY latent HAVING count(*) > 1 LIMIT 1").fetchone() or (None,)
        if repeated is not None:
            raise UserError(f"source: it has latent {repeated} twice", "source")
        # Two spellings of the same bytes get different ids, which no page shows.
        pieces = [self._piece(text) for text in self._tokens]
        queries = {"latent": _LATENTS, "context": _CONTEXTS, "token_latent": _TOKEN_LATENTS,
                   "latent_edges": "SELECT * FROM latent_edges", "explanation": "SELECT * FROM explanation"}
        small: dict[str, Any] = {"token": pa.table({
            "token": np.arange(len(pieces), dtype=np.int32), "piece": pa.array(pieces, pa.binary()),
            "special": pa.array([False] * len(pieces)), "n": pa.nulls(len(pieces), pa.int64())})}
        small["document"] = pa.table({
            "doc": np.arange(len(self._documents), dtype=np.int32), "name": pa.array(self._documents, pa.string())})
        (top,) = self._con.execute(f"SELECT max(band) FROM ({_CONTEXTS})").fetchone() or (0,)
        return _Tables(self._con, small, queries), {
            "n_latents": self._last + 1, "n_bands": int(top or 0), "byte_level": self._stand_ins}

    def _put(self, table: str, row: dict[str, Any]) -> None:
        self._rows[table].append(row)
        if len(self._rows[table]) >= _BLOCK:
            self._flush(table)

    def _flush(self, table: str) -> None:
        if self._rows[table]:
            self._con.register("rows", pa.Table.from_pylist(self._rows[table], _SCHEMAS[table]))
            self._con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM rows")
            self._con.unregister("rows")
            self._rows[table] = []

    def _ids(self, texts: Sequence[str]) -> list[int]:
        known = self._tokens
        ids = [known[text] if text in known else known.setdefault(text, len(known)) for text in texts]
        if len(known) > _MAX_VOCABULARY:
            raise UserError(f"source: it has more than {_MAX_VOCABULARY:,} different tokens, more than any vocabulary",
                            "source")
        return ids

    def _piece(self, text: str) -> bytes:
        if self._escaped:
            return own_piece(text)
        return stand_in_piece(text) if self._stand_ins else text_piece(text)

    def _context(self, example: Example) -> dict[str, Any]:
        values, more = example.values, example.more
        top = max(range(len(values)), key=values.__getitem__)
        strongest = example.low is None or example.low < 0
        peak = top if strongest or example.at is None or example.at >= len(values) else example.at
        band, duplicates = untrusted_json.whole(more.get("band")), untrusted_json.whole(more.get("duplicates"))
        if band is not None:
            peak = example.at if example.at is not None and example.at < len(values) else top
        document = untrusted_json.text(more.get("document"), 1000)
        firing = [i for i, value in enumerate(values) if value > 0]
        self._seq += 1
        return {
            "seq": self._seq - 1, "latent": example.latent, "band": band, "low": example.low, "high": example.high,
            "act": values[peak], "largest": values[top], "ctx": untrusted_json.whole(more.get("ctx")),
            "doc": self._documents.setdefault(document, len(self._documents)) if document else None,
            "doc_offset": untrusted_json.whole(more.get("doc_offset")), "start": _small(more.get("start")),
            "peak": peak,
            "tokens": self._ids(example.tokens), "pos": firing, "val": [values[i] for i in firing],
            "duplicates": min(duplicates, 2**31 - 1) if duplicates is not None else None}

    def _latent(self, feature: Feature) -> dict[str, Any]:
        more = feature.more
        n = sum(feature.acts.counts) if feature.acts else None
        scalars: dict[str, Any] = {name: untrusted_json.number(more.get(name)) for name in SCALARS}
        if scalars["n_tokens"] is None and n is not None:
            scalars["n_tokens"] = n
        n = None if scalars["n_tokens"] is None else int(scalars["n_tokens"])
        if scalars["density"] is None:
            scalars["density"] = _density(feature.density, n, self._total)
        flags: dict[str, bool | None] = dict.fromkeys(FLAGS)
        if isinstance(more.get("flags"), list):
            flags = {flag: flag in more["flags"] for flag in FLAGS}
        else:
            flags |= {"dead": None if n is None else n == 0, "rare": None if n is None else 0 < n < RARE_TOKENS,
                      "dense": None if scalars["density"] is None else scalars["density"] > DENSE_DENSITY}
        row = {"latent": feature.latent, **scalars, **flags, "max_act": feature.max_act,
               "hist": feature.acts.counts if feature.acts and feature.acts.edges() else None,
               "logit_hist": feature.logits.counts if feature.logits and feature.logits.edges() else None}
        for side, pairs in (("logit_pos", feature.pos), ("logit_neg", feature.neg)):
            row |= {side: self._ids([text for text, _ in pairs]), f"{side}_value": [v for _, v in pairs]}
        row |= {"neighbours": [i for i, _ in feature.neighbours], "neighbour_cos": [c for _, c in feature.neighbours]}
        return row | self._firings("top_token", more.get("top_tokens")) | self._firings(
            "next_token", more.get("next_tokens"))

    def _firings(self, name: str, listed: Any) -> dict[str, Any]:
        """Make the list columns of `top_tokens` or `next_tokens` from rows [text, n, lift, largest] of our exports."""
        rows = [row for row in listed if isinstance(row, list) and len(row) == 4 and isinstance(row[0], str)
                and untrusted_json.whole(row[1]) is not None] if isinstance(listed, list) else []
        columns = {f"{name}s": self._ids([row[0][:4096] for row in rows]), f"{name}_n": [int(row[1]) for row in rows],
                   f"{name}_lift": [untrusted_json.number(row[2]) for row in rows]}
        if name == "top_token":
            columns["top_token_max"] = [untrusted_json.number(row[3]) for row in rows]
        return columns


class _Tables(Mapping[str, Any]):
    """Tables by name.  A query runs when its table is requested, so that only one runs at a time."""

    def __init__(self, con: duckdb.DuckDBPyConnection, small: dict[str, pa.Table], queries: dict[str, str]) -> None:
        self._con, self._small, self._queries = con, small, queries

    def __getitem__(self, name: str) -> Any:
        if name in self._small:
            return self._small[name]
        return self._con.cursor().sql(self._queries[name]).to_arrow_reader(_ROWS)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._small, *self._queries])

    def __len__(self) -> int:
        return len(self._small) + len(self._queries)


def _small(value: Any) -> int | None:
    found = untrusted_json.whole(value)
    return found if found is not None and found < 2**16 else None


def _density(share: float | None, n: int | None, total: int | None) -> float | None:
    """Return the density: the exact quotient if it agrees with the file's share, which is rounded to 1e-5."""
    if n is not None and total and n <= total and (share is None or abs(n / total - share) <= 2e-5):
        return n / total
    return share

