"""The page file: the first content of each latent's page, one Arrow row per latent, mapped into memory.

DuckDB takes milliseconds to plan a query and fetch a few rows.  A page needs its own latent, its contexts and the
strongest context of thirty others.  So `<build>.arrow` next to the build repeats them: all columns of `latent`, and
the columns of `context`, cut to short windows, as lists named `context.<column>`.  It is made from the build.  It is
made again if it is missing or was made from another build.

Shapes: N contexts of a batch of latents, M firings in them.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from sae.errors import DamagedFile
from sae.store.arrow_columns import arrow_column, arrow_table, list_column, list_offsets, numpy_of, whole
from sae.workspace.files import atomic_write

WINDOW = (25, 19)  # tokens kept before and after the peak: one more than a page shows, as a sign that text continues
_AT_ONCE = 2  # batches made at once
_BATCH = 2048  # latents of a record batch: latent n is in batch n // _BATCH
_FULLY_CHECKED = 1 << 28  # bytes up to which all offsets are checked when the file is opened, which takes 0.1 s
_PREFIX = "context."
_CONTEXTS = f"""SELECT latent, band, rank, act, ctx, doc, doc_offset, start, peak, n, pos, val, duplicates,
  list_slice(tokens, first + greatest(peak::INTEGER - {WINDOW[0]}, 0) + 1,
             first + least(peak::INTEGER + {WINDOW[1] + 1}, n::INTEGER)) AS tokens
FROM build.place JOIN build.text USING (text)"""


def page_file_path(build: Path) -> Path:
    """Return the path of the page file next to the build file `build`."""
    return build.with_suffix(".arrow")


def write_page_file(con: duckdb.DuckDBPyConnection, path: Path, made_of: str) -> None:
    """Write `path` from the attached database `build`, whose tables must be filled.

    `made_of` names the build; `LatentPageFile.open` compares it.
    """
    (top, own_edges, tokens), = con.execute(
        "SELECT (SELECT max(latent) FROM build.latent), (SELECT count(*) FROM build.latent_edges),"
        " (SELECT max(token) FROM build.token)").fetchall()
    source = "build.latent LEFT JOIN build.latent_edges USING (latent)" if own_edges else "build.latent"
    token_type: type[np.integer[Any]] = np.uint16 if (tokens or 0) < 1 << 16 else np.int32

    def batch(start: int) -> pa.Table:
        among = f"WHERE latent >= {start} AND latent < {start + _BATCH} ORDER BY latent"
        with con.cursor() as cursor:
            latents, contexts = (cursor.sql(query).to_arrow_table().combine_chunks() for query in (
                f"SELECT * FROM {source} {among}", f"{_CONTEXTS} {among}, band, rank"))
        return _batch(latents, _cut(contexts, token_type))

    with ExitStack() as stack:
        file, pool = stack.enter_context(pa.OSFile(str(path), "wb")), stack.enter_context(ThreadPoolExecutor(_AT_ONCE))
        writer = None
        for table in _in_order(pool, batch, range(0, (-1 if top is None else top) + 1, _BATCH)):
            if writer is None:
                schema = table.schema.with_metadata({"made_of": made_of})
                writer = stack.enter_context(pa.ipc.new_file(file, schema))
            writer.write_table(table)


def _make(build: Path, path: Path, made_of: str) -> None:
    with duckdb.connect(config={"threads": 2, "memory_limit": "1GB"}) as con:
        con.execute(f"ATTACH '{str(build).replace(chr(39), chr(39) * 2)}' AS build (READ_ONLY)")
        write_page_file(con, path, made_of)


def _in_order(pool: ThreadPoolExecutor, make: Callable[[int], pa.Table], starts: Iterable[int]) -> Iterator[pa.Table]:
    """Yield the result of `make` for each start in order, computing only a few ahead because they may be large."""
    ahead: deque[Future[pa.Table]] = deque()
    for start in starts:
        ahead.append(pool.submit(make, start))
        if len(ahead) > _AT_ONCE:
            yield ahead.popleft().result()
    for future in ahead:
        yield future.result()


def _batch(latents: pa.Table, contexts: pa.Table) -> pa.Table:
    """Put the contexts of each latent into its row as lists."""
    numbers = numpy_of(contexts["latent"])
    first = np.searchsorted(numbers, numpy_of(latents["latent"])).astype(np.int32)
    offsets = list_offsets(np.append(first, np.int32(len(numbers))))
    lists = {f"{_PREFIX}{name}": list_column(offsets, whole(contexts[name]))
             for name in contexts.column_names}
    return arrow_table({**{name: latents[name] for name in latents.column_names}, **lists})


def _cut(contexts: pa.Table, token_type: type[np.integer[Any]]) -> pa.Table:
    """Cut the contexts to `WINDOW` around their peaks.  Their tokens must be cut already."""
    pos = whole(contexts["pos"])
    peak_N = numpy_of(contexts["peak"]).astype(np.int64)
    low_N = np.maximum(peak_N - WINDOW[0], 0)
    n_N = np.minimum(peak_N + WINDOW[1] + 1, numpy_of(contexts["n"])) - low_N

    offset_N = numpy_of(pos.offsets).astype(np.int64)
    context_M = np.repeat(np.arange(len(n_N)), np.diff(offset_N))
    pos_M = numpy_of(pos.flatten()).astype(np.int64) - low_N[context_M]
    kept_M = (pos_M >= 0) & (pos_M < n_N[context_M])
    fired_N = list_offsets(np.concatenate([[0], np.cumsum(np.bincount(context_M[kept_M], minlength=len(n_N)))]))

    tokens = whole(contexts["tokens"])
    start_N = numpy_of(contexts["start"]).astype(np.float64) + low_N  # NaN: unknown
    new = {
        "start": arrow_column(np.nan_to_num(start_N).astype(np.int32), ~np.isnan(start_N)),
        "peak": arrow_column((peak_N - low_N).astype(np.uint16)),
        "tokens": list_column(tokens.offsets, numpy_of(tokens.values).astype(token_type)),
        "pos": list_column(fired_N, pos_M[kept_M].astype(np.uint16)),
        "val": list_column(fired_N, numpy_of(whole(contexts["val"]).flatten())[kept_M])}
    return arrow_table({name: new.get(name, contexts[name]) for name in contexts.column_names if name != "n"})


class LatentPageFile:
    """The page file, open.  Many threads may use it at once."""

    def __init__(self, batches: list[pa.RecordBatch], path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._size_and_time = self._now()
        n = sum(not name.startswith(_PREFIX) for name in batches[0].schema.names)
        self._latents = [batch.select(batch.schema.names[:n]) for batch in batches]
        self._numbers = [batch.column("latent").to_numpy() for batch in batches]
        self._contexts, self._first = [], []
        for batch in batches:
            lists = batch.columns[n:]
            names = [name.removeprefix(_PREFIX) for name in batch.schema.names[n:]]
            self._contexts.append(pa.StructArray.from_arrays([column.values for column in lists], names))
            self._first.append(lists[0].offsets.to_numpy())

    @classmethod
    def open_or_make(cls, build: Path, made_of: str) -> LatentPageFile:
        """Open the page file next to `build`, making it first if it is missing, damaged or of another build.

        If the folder is not writable, it is made in a temporary one, for this process alone.
        """
        if found := cls.open(page_file_path(build), made_of):
            return found
        with suppress(OSError):
            with atomic_write(page_file_path(build)) as temporary:
                _make(build, temporary, made_of)
            if found := cls.open(page_file_path(build), made_of):
                return found
        with tempfile.TemporaryDirectory(prefix="saescope-") as folder:
            path = Path(folder) / "page.arrow"
            _make(build, path, made_of)
            found = cls.open(path, made_of)  # mapped, so it stays readable after its folder is removed
        assert found is not None
        return found

    @classmethod
    def open(cls, path: Path, made_of: str) -> LatentPageFile | None:
        """Open the page file at `path`.  Returns None if it is missing, damaged, or was written for another build."""
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))  # fails for a truncated file, which lacks its footer
            if reader.schema.metadata != {b"made_of": made_of.encode()}:
                return None
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in batches:  # an offset that points outside of its column would end the process
                batch.validate(full=path.stat().st_size <= _FULLY_CHECKED)
            descriptor = os.open(path, os.O_RDONLY)
        except (OSError, pa.ArrowInvalid):
            return None
        try:
            return cls(batches, path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Unmap the file, whose disk space is otherwise kept after it is deleted."""
        for held in (self._latents, self._numbers, self._contexts, self._first):
            held.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def changed_on_disk(self) -> bool:
        """Return whether the mapped file was written since it was opened."""
        return self._now() != self._size_and_time

    def _now(self) -> tuple[int, int]:
        stat = os.fstat(self._descriptor)
        return stat.st_size, stat.st_mtime_ns

    def latent(self, latent: int, columns: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return the latent's row of `latent`, with the columns of `latent_edges` if the build has any.

        With `columns` the row has these alone.
        """
        b, i = self._locate(latent)
        if i is None:
            return None
        batch = self._latents[b].select(columns) if columns else self._latents[b]
        row: dict[str, Any] = batch.slice(i, 1).to_pylist()[0]
        return row

    def latents(self, latents: Iterable[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return these columns of the rows of each of the latents that has one, by number."""
        wanted_N = np.unique(np.fromiter((latent for latent in latents if latent >= 0), np.int64))
        wanted_N = wanted_N[wanted_N < _BATCH * len(self._numbers)]
        self._refuse_changed()
        found: list[dict[str, Any]] = []
        for part_N in np.split(wanted_N, np.flatnonzero(np.diff(wanted_N // _BATCH)) + 1) if len(wanted_N) else ():
            b = int(part_N[0]) // _BATCH
            number_N = self._numbers[b]
            row_N = np.searchsorted(number_N, part_N)
            row_N = row_N[np.append(number_N, -1)[row_N] == part_N]
            rows = self._latents[b].select(columns)
            found += (rows.slice(row_N[0], 1) if len(row_N) == 1 else rows.take(row_N)).to_pylist()
        return found

    def lists(self, name: str) -> Iterator[tuple[Any, Any, Any]]:
        """Yield the column `name` of `latent`, whose values are lists, in parts: the numbers of the latents, the
        offset at which each list begins, and the values of all lists.  The arrays are mapped, not copied.
        """
        self._refuse_changed()
        for numbers, batch in zip(self._numbers, self._latents, strict=True):
            column = batch.column(name)
            yield numbers, column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)

    def contexts(self, latent: int) -> list[dict[str, Any]]:
        """Return its rows of `context` by band and rank, cut to `WINDOW` around the peak."""
        b, i = self._locate(latent)
        if i is None:
            return []
        first, end = self._first[b][i : i + 2].tolist()
        rows: list[dict[str, Any]] = self._contexts[b].slice(first, end - first).to_pylist()
        return rows

    def first_contexts(self, latents: Iterable[int]) -> list[dict[str, Any]]:
        """Return the first row of `contexts` of each latent that has one."""
        found = []
        for latent in latents:
            b, i = self._locate(latent)
            if i is not None and self._first[b][i] < self._first[b][i + 1]:
                found.append(self._contexts[b].slice(int(self._first[b][i]), 1))
        # One conversion of all rows: each takes longer to begin than to convert a row.
        rows: list[dict[str, Any]] = pa.concat_arrays(found).to_pylist() if found else []
        return rows

    def context_on(self, latent: int, token: int) -> dict[str, Any] | None:
        """Return the row of `context` with the latent's strongest firing on `token`, cut like `contexts`.

        Its `peak` and `act` are set to that firing.  Returns None if no stored context has one.
        """
        b, i = self._locate(latent)
        if i is None:
            return None
        first, end = self._first[b][i : i + 2].tolist()
        rows = self._contexts[b].slice(first, end - first)
        tokens, pos, val = (rows.field(name) for name in ("tokens", "pos", "val"))
        offset_N = tokens.offsets.to_numpy()[:-1] - tokens.offsets[0].as_py()
        context_M = np.repeat(np.arange(len(rows)), pos.value_lengths().to_numpy())
        pos_M, val_M = pos.flatten().to_numpy(), val.flatten().to_numpy()
        hit_M = np.flatnonzero(tokens.flatten().to_numpy()[offset_N[context_M] + pos_M] == token)
        if not len(hit_M):
            return None
        best = hit_M[val_M[hit_M].argmax()]
        (row,) = rows.slice(context_M[best], 1).to_pylist()
        return {**row, "peak": int(pos_M[best]), "act": float(val_M[best])}

    def _refuse_changed(self) -> None:
        """Raise DamagedFile (field `build`) if the file was written meanwhile: reading a mapped page that a truncated
        file has lost ends the process.
        """
        if self.changed_on_disk():
            raise DamagedFile(f"build: {self._path.name} was changed on the disk while it was being read. Load the "
                              "page again", self._path, "build")

    def _locate(self, latent: int) -> tuple[int, int | None]:
        """Return its batch, and its row in that batch if there is one."""
        self._refuse_changed()
        b = latent // _BATCH
        if not 0 <= b < len(self._numbers):
            return b, None
        numbers = self._numbers[b]
        i = int(np.searchsorted(numbers, latent))
        return b, i if i < len(numbers) and numbers[i] == latent else None
