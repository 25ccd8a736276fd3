"""Read-only queries of a build.  No torch.

A `Build` may be used by many threads at once.  Every query takes a cursor of its own, because a DuckDB connection must
not be shared (its `threadsafety` is 1).  The first content of a latent's page comes from the page file
(`sae.store.page_file`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from sae.errors import UserError
from sae.store.connection import MAX_PAGE, connect
from sae.store.damage import check_build_size, damaged_build, file_mark, reading
from sae.store.facets import list_counts
from sae.store.latent_page import has_no_nan, neighbours, read_page, read_some
from sae.store.latent_query import (
    ALIVE,
    SORTS,
    TOKEN_SORTS,
    Filters,
    Page,
    Query,
    build_query,
)
from sae.store.page_file import LatentPageFile
from sae.store.raised_logits import raised_logits
from sae.store.recent import Recent
from sae.store.records import (
    Context,
    L0Count,
    L0Position,
    L0Token,
    Latent,
    LatentRow,
    Sample,
    Token,
    Vocabulary,
    context_of,
    latent_of,
)
from sae.store.schema import NEAR_BAND, SCHEMA_VERSION, TOP_BAND
from sae.store.token_search import find_tokens
from sae.store.whole_columns import FiringRates

_DENSITY_BINS_PER_DECADE = 5
_PAGES, _COUNTS = 64, 256  # lists whose page and whose counts are remembered
_PAGE_KEPT = 200  # rows of a page, and latents of a filter, up to which that is done
T = TypeVar("T")


class Build:
    """One immutable build, open.  Close it only while no query is running."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, meta: dict[str, Any]) -> None:
        self.path, self.meta, self._connection = path, meta, connection
        self._mark = file_mark(path)
        self._page_file = LatentPageFile.open_or_make(path, self.id)
        self._kept: dict[Hashable, Any] = {}
        self._pages, self._list_counts = Recent[Page](_PAGES), Recent[tuple[int, dict[str, dict[str, int]]]](_COUNTS)

    @classmethod
    def open(cls, path: Path) -> Build:
        """Open a build file.

        Raises UserError (field `build`) if it is not a build or has tables of another version, and DamagedFile, which
        is a UserError, if it is damaged.
        """
        check_build_size(path)
        try:
            connection = connect(path)
        except duckdb.Error as error:
            reason = str(error).strip().splitlines()[0].replace(f"{path.parent}{os.sep}", "")
            raise damaged_build(path, f"it cannot be opened: {reason}") from None
        try:
            rows = connection.execute("SELECT key, value FROM meta").fetchall()
            meta = {key: json.loads(value) for key, value in rows}
        except (duckdb.CatalogException, duckdb.BinderException, ValueError):
            connection.close()
            raise UserError(f"build: {path.name} is not a saescope build", "build") from None
        except duckdb.Error as error:
            connection.close()
            raise damaged_build(path, str(error).strip().splitlines()[0]) from None
        if meta.get("schema_version") != SCHEMA_VERSION:
            connection.close()
            raise UserError(
                f"build: {path.name} has tables of version {meta.get('schema_version')}, this program reads "
                f"version {SCHEMA_VERSION}; rebuild it with: saescope index --sae {meta.get('sae_id', '')}", "build")
        try:
            with reading(path):
                return cls(path, connection, meta)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self._page_file.close()

    def changed_on_disk(self) -> bool:
        """Return whether its files were written since it was opened, so that it must be opened again.

        A deleted file is no change, because an open file stays as it is.
        """
        return file_mark(self.path) not in (self._mark, None) or self._page_file.changed_on_disk()

    @property
    def id(self) -> str:
        return str(self.meta["build_id"])

    @property
    def n_latents(self) -> int:
        return int(self.meta["n_latents"])

    def kept(self, make: Callable[..., T], *arguments: Hashable) -> T:
        """Return `make(self, *arguments)`, which is made once."""
        key = (make, *arguments)
        if key not in self._kept:
            self._kept[key] = make(self, *arguments)
        made: T = self._kept[key]
        return made

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with reading(self.path), closing(self._connection.cursor()) as cursor:
            cursor.execute(sql, list(parameters))
            names = [name for name, *_ in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def latent(self, latent: int) -> Latent | None:
        """Return all facts about one latent, or None if there is no such number."""
        row = self._page_file.latent(latent)
        return latent_of(row, self.meta.get("company_tokens"), lambda other: self.facts(other, "n_tokens").get(
            "n_tokens")) if row else None

    def facts(self, latent: int, *columns: str) -> dict[str, Any]:
        """Return some columns of a latent's row, quickly; {} if there is no such number."""
        return self._page_file.latent(latent, columns) or {}

    def facts_of(self, latents: Iterable[int], *columns: str) -> list[dict[str, Any]]:
        """Return some columns of the rows of these latents, by number; numbers that do not exist are left out."""
        return self._page_file.latents(latents, columns)

    def listed(self, column: str) -> Iterator[tuple[Any, Any, Any]]:
        """Yield a column of lists over all latents (see `LatentPageFile.lists`)."""
        return self._page_file.lists(column)

    def contexts(self, latent: int) -> list[Context]:
        """Return its contexts: band 0 (strongest first), the activation bands from strong to weak, and near misses."""
        rows = self._rows("SELECT * FROM context WHERE latent = ?", [latent])
        return self._contexts(sorted(rows, key=lambda row: (row["band"], row["rank"])))

    def windows(self, latent: int) -> list[Context]:
        """Return its contexts, each cut to `sae.store.page_file.WINDOW` tokens around its peak."""
        return self._contexts(self._page_file.contexts(latent))

    def snippets(self, latents: Iterable[int], token: int | None = None) -> dict[int, Context]:
        """Return the strongest context of each latent that has one, cut like `windows`.

        With `token`, return instead its strongest firing on that token, if one of its contexts has one.
        """
        wanted = sorted(set(latents))
        rows = {row["latent"]: row for row in self._page_file.first_contexts(wanted) if row["band"] == TOP_BAND}
        if token is not None:
            rows |= {row["latent"]: row for latent in wanted if (row := self._page_file.context_on(latent, token))}
        return {context.latent: context for context in self._contexts(list(rows.values()))}

    def _contexts(self, rows: list[dict[str, Any]]) -> list[Context]:
        """Make contexts of rows, with the names of their documents."""
        return [context_of(row, self._documents.get(row["doc"]) or "") for row in rows]

    @cached_property
    def _documents(self) -> dict[int | None, str | None]:
        """Return the name of every document: a few hundred kilobytes, where a join costs each page a millisecond."""
        return {row["doc"]: row["name"] for row in self._rows("SELECT doc, name FROM document")}

    def records(self, low: int, high: int, with_contexts: bool = True) -> list[tuple[Latent, list[Context]]]:
        """Return the latents from `low` to below `high`, each with its contexts except near misses.

        The contexts are ordered as in `contexts`; the lists are empty without `with_contexts`.
        """
        rows = self._rows(
            f"SELECT * FROM context WHERE latent >= ? AND latent < ? AND band <> {NEAR_BAND}"
            " ORDER BY latent, band, rank", [low, high]) if with_contexts else []
        contexts: dict[int, list[Context]] = {}
        for row, context in zip(rows, self._contexts(rows), strict=True):
            contexts.setdefault(row["latent"], []).append(context)
        latents = self._rows(
            f"SELECT * FROM {self._latents} WHERE latent >= ? AND latent < ? ORDER BY latent", [low, high])
        return [(latent_of(row, self.meta.get("company_tokens")), contexts.get(row["latent"], [])) for row in latents]

    def explanations(self, latent: int) -> list[tuple[str, str]]:
        """Return the explanations of a latent that came with an imported dashboard: (text, author)."""
        if not self._tables.get("explanation"):
            return []
        return [(row["text"], row["author"]) for row in self._rows(
            "SELECT text, author FROM explanation WHERE latent = ?", [latent])]

    @cached_property
    def _tables(self) -> dict[str, int]:
        """Return the tables that exist, with their row counts."""
        rows = self._rows("SELECT table_name AS name, estimated_size AS n FROM duckdb_tables()")
        return {row["name"]: row["n"] for row in rows}

    @property
    def _latents(self) -> str:
        """Return the SQL source of latents, joined with their own histogram edges if there are any."""
        return "latent LEFT JOIN latent_edges USING (latent)" if self._tables.get("latent_edges") else "latent"

    def n_rows(self, table: str) -> int:
        """Return the row count of a table of the schema; 0 if the build does not have the table."""
        return self._tables.get(table, 0)

    def arrow(self, sql: str, batch_rows: int) -> Any:
        """Return the result of a query as a pyarrow RecordBatchReader, which streams it.  The caller closes it."""
        return self._connection.cursor().sql(sql).to_arrow_reader(batch_rows)

    # Lists of latents

    def latents(
        self, sort: str = "latent", descending: bool = False, filters: Filters | None = None,
        token: int | None = None, cursor: str | None = None, limit: int = 50,
    ) -> Page:
        """Return a page of the latent table; with `token`, only the latents that fire on it.

        Raises UserError for a sort (field `sort`) or a cursor (field `cursor`) that cannot be used.
        """
        filters = filters or Filters()

        limit = max(1, min(limit, MAX_PAGE))

        def read() -> Page:
            return read_page(self, self._query(sort, descending, filters, token), filters, token, cursor, limit)

        if limit > _PAGE_KEPT or filters.scores or len(filters.among or ()) > _PAGE_KEPT:
            return read()
        return self._pages.get((sort, descending, filters, token, cursor, limit), read)

    def some(self, latents: Iterable[int]) -> list[LatentRow]:
        """Return the table's rows of these latents, by number; numbers that do not exist are left out."""
        return read_some(self, self._query("latent", False, Filters(among=frozenset(latents)), None))

    def around(
        self, latent: int, sort: str = "latent", descending: bool = False, filters: Filters | None = None,
        token: int | None = None,
    ) -> tuple[int | None, int | None]:
        """Return the latents before and after this one in that list, or (None, None) if it is not in it."""
        if sort == "latent" and not descending and token is None and filters in (None, Filters()):
            return latent - 1 if latent else None, latent + 1 if latent + 1 < self.n_latents else None
        query = self._query(sort, descending, filters or Filters(), token)
        condition = f"{query.where} AND l.latent = ?" if query.where else " WHERE l.latent = ?"
        found = self._rows(
            f"SELECT {query.key} AS sort_key FROM {query.source}{condition}", [*query.parameters, latent])
        if not found:
            return None, None
        return neighbours(self, query, found[0]["sort_key"], latent)

    def facets(self, filters: Filters | None = None, token: int | None = None) -> dict[str, dict[str, int]]:
        """Count the latents that the list would have with each flag and each decade of density.

        A flag is counted in addition to the filters; a decade replaces the current one.  Counts that depend on the
        build alone are kept, because they read several columns of every latent.
        """
        return self.counted(filters or Filters(), token)[1]

    def counted(self, filters: Filters, token: int | None) -> tuple[int, dict[str, dict[str, int]]]:
        """Return the length of a list and its facets (see `sae.store.facets`)."""
        asked = replace(filters, scores=())
        if len(filters.among or ()) > _PAGE_KEPT:
            return list_counts(self, asked, token)
        return self._list_counts.get((asked, token), lambda: list_counts(self, asked, token))

    def _query(self, sort: str, descending: bool, filters: Filters, token: int | None) -> Query:
        raised = self.kept(raised_logits).of_token(filters.logit) if filters.logit is not None else None
        return build_query(
            sort, descending, filters, token, (raised[0].tolist(), raised[1].tolist()) if raised else ((), ()),
            sorts=self.sorts, numbers_only=sort in SORTS and sort not in TOKEN_SORTS and self.kept(
                has_no_nan, self.sorts[sort]))

    @cached_property
    def sorts(self) -> dict[str, str]:
        """Return the column of each sort.  Older builds have the nearest cosine in a list alone."""
        (found,) = self._rows("SELECT count(*) AS n FROM duckdb_columns()"
                              " WHERE table_name = 'latent' AND column_name = 'nearest_cos'")
        return SORTS if found["n"] else SORTS | {"cosine": "l.neighbour_cos[1]"}

    def counts(self) -> dict[str, int]:
        """Count the latents with each flag, the alive ones, and all of them (`all`)."""
        flags = self.facets()["flag"]
        return {**flags, "living": flags[ALIVE], "all": self.n_latents}  # the old name of `alive`, for one release

    def random_latents(self, n: int, seed: int = 0) -> list[int]:
        """Return `n` random alive latents.  The same seed gives the same latents."""
        rows = self._rows(
            "SELECT latent FROM latent WHERE NOT dead ORDER BY hash(latent, ?) LIMIT ?", [seed, n])
        return [row["latent"] for row in rows]

    @cached_property
    def firing_rates(self) -> FiringRates:
        """Return density and maximum activation of every latent."""
        return FiringRates.read(self)

    def cosine_histogram(self, bins: int = 40) -> list[tuple[float, float, int]]:
        """Count alive latents by the cosine of their nearest decoder row: (from, below, count)."""
        rows = {row["bin"]: row["n"] for row in self._rows(
            f"SELECT least(floor({self.sorts['cosine']} * ?)::INTEGER, ?) AS bin, count(*) AS n FROM latent l"
            f" WHERE NOT dead AND {self.sorts['cosine']} IS NOT NULL GROUP BY bin", [bins, bins - 1])}
        return [(i / bins, (i + 1) / bins, rows.get(i, 0)) for i in range(min(rows, default=0), bins)]

    def norm_histogram(self, bins: int = 40) -> list[tuple[float, float, int]]:
        """Count alive latents by the norm of their encoder row: (from, below, count).  Decoder rows have norm 1."""
        low, high = self._rows("SELECT min(encoder_norm), max(encoder_norm) FROM latent WHERE NOT dead")[0].values()
        step = (high - low) / bins or 1.0 if low is not None else 0.0
        rows = {row["bin"]: row["n"] for row in self._rows(
            "SELECT least(floor((encoder_norm - ?) / ?)::INTEGER, ?) AS bin, count(*) AS n FROM latent"
            " WHERE NOT dead AND encoder_norm IS NOT NULL GROUP BY bin", [low, step, bins - 1])}
        return [(low + i * step, low + (i + 1) * step, rows.get(i, 0)) for i in range(max(rows, default=-1) + 1)]

    def density_histogram(self) -> list[tuple[float, float, int]]:
        """Count alive latents by density: (from, below, count) in fifths of a decade, lowest first."""
        return self._by_density("count(*)")

    def firings_by_density(self) -> list[tuple[float, float, float]]:
        """Return what the latents of each fifth of a decade of density add to the mean L0: (from, below, latents per
        token).
        """
        return self._by_density("sum(density)")

    def _by_density(self, value: str) -> list[tuple[float, float, Any]]:
        step = 1 / _DENSITY_BINS_PER_DECADE
        return [(10 ** (row["bin"] * step), 10 ** ((row["bin"] + 1) * step), row["value"]) for row in self._rows(
            f"SELECT floor(log10(density) * {_DENSITY_BINS_PER_DECADE})::INTEGER AS bin, {value} AS value"
            " FROM latent WHERE density > 0 GROUP BY bin ORDER BY bin")]

    # Tokens

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Return all tokens; an id that the build does not know has no bytes."""
        return Vocabulary((row["token"], Token(**row)) for row in self._rows(
            "SELECT token, piece, special, n FROM token"))

    def find_tokens(self, text: str, limit: int = 20) -> list[Token]:
        """Find tokens by their text (see `sae.store.token_search`)."""
        return find_tokens(self.vocabulary, text, limit)

    # Latents per token

    def l0_hist(self) -> list[L0Count]:
        """Count the tokens that have exactly `l0` active latents, and separately the BOS positions."""
        return [L0Count(**row) for row in self._rows("SELECT l0, n, n_bos FROM l0_hist ORDER BY l0")]

    def l0_positions(self) -> list[L0Position]:
        """Return the mean latents per token by position."""
        out = []
        for row in self._rows("SELECT * FROM l0_position WHERE n > 0 ORDER BY position"):
            mean = row["sum_l0"] / row["n"]
            variance = max(row["sum_sq_l0"] / row["n"] - mean * mean, 0.0)
            out.append(L0Position(row["position"], row["n"], mean, variance**0.5, row["fvu"]))
        return out

    def l0_tokens(self, most: bool, min_n: int = 20, limit: int = 20) -> list[L0Token]:
        """Return the tokens that need most (or fewest) latents on average, among those seen at least `min_n` times."""
        rows = self._rows(
            "SELECT token, n, sum_l0 / n AS mean FROM l0_token WHERE n >= ?"
            f" ORDER BY mean {'DESC' if most else 'ASC'}, token LIMIT ?", [max(min_n, 1), limit])
        return [L0Token(**row) for row in rows]

    def samples(self) -> list[Sample]:
        """Return the sample contexts, each with the latents per token at every position."""
        return [Sample(**row) for row in self._rows(
            "SELECT s.sample, s.kind, s.ctx, coalesce(d.name, '') AS document, s.doc_offset, s.tokens, s.l0"
            " FROM sample s LEFT JOIN document d USING (doc) ORDER BY s.sample")]

    def sample_latents(self, sample: int, position: int) -> list[tuple[int, float]]:
        """Return the strongest latents at one position of a sample, strongest first."""
        rows = self._rows(
            "SELECT latents, acts FROM sample_latent WHERE sample = ? AND position = ?", [sample, position])
        return list(zip(rows[0]["latents"], rows[0]["acts"], strict=True)) if rows else []
