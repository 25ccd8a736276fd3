"""The latent table as a file: all rows of a list, as CSV or Parquet, with the columns of its address."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from app.library import explanations, labels
from app.library.label_files import harmless
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, UserDep
from app.pages.explore.latents_columns import CHOOSABLE
from app.pages.explore.latents_query import ListQuery, Resolved, resolve
from app.pages.sae_page import find_sae, open_build
from app.pages.stars import starred
from app.render.latent_words import rule_words
from sae.errors import UserError
from sae.formats.writers.archive import Sink
from sae.store.build import Build
from sae.store.connection import MAX_PAGE
from sae.store.latent_query import SCORE_SORT
from sae.store.records import LatentRow

router = APIRouter(include_in_schema=False)

KINDS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


@dataclass(frozen=True)
class Field:
    """A column of the file: its name, its type, and how a latent's value is read."""

    name: str
    type: pa.DataType
    value: Callable[[LatentRow], Any]


@router.get("/{model}/{name}/latents.{kind}")
def download(
    request: Request, model: str, name: str, kind: str, user: UserDep, db: SessionDep, catalog: CatalogDep,
    builds: BuildsDep,
) -> Response:
    """Send all latents of a list in its order, with the columns that the address names, or with all of them.

    Raises 404 for another kind than `csv` and `parquet`, and UserError for a query that the table does not know.
    """
    if kind not in KINDS:
        raise HTTPException(404, f"The table is sent as {' or '.join(KINDS)}, not as {kind[:20]!r}.")
    sae = find_sae(catalog, model, name)
    query, faults = ListQuery.read(request.query_params).usable()
    if faults:
        raise UserError(faults[0], faults[0].partition(":")[0])
    with open_build(builds, sae) as build:
        asked = resolve(query, build, db, sae.id, starred(request, db, user, sae.id))
        fields = _fields(build, query, asked, labels.texts(db, sae.id), explanations.texts(db, sae.id))

    def pieces() -> Iterator[bytes]:
        with builds.use(sae.id, build.id) as opened:
            batches = _batches(opened, asked)
            yield from _csv(fields, batches) if kind == "csv" else _parquet(fields, batches)

    return StreamingResponse(pieces(), media_type=KINDS[kind], headers={
        "Content-Disposition": f'attachment; filename="{sae.name}-latents.{kind}"', "Cache-Control": "no-store",
        "Content-Encoding": "identity"})


def _batches(build: Build, asked: Resolved) -> Iterator[list[LatentRow]]:
    cursor: str | None = None
    while True:
        page = build.latents(asked.key, asked.descending, asked.filters, asked.token, cursor, MAX_PAGE)
        yield page.rows
        cursor = page.next_cursor
        if cursor is None:
            return


def _fields(
    build: Build, query: ListQuery, asked: Resolved, written: Mapping[int, str], names: Mapping[int, str],
) -> list[Field]:
    """Return the columns of the file: number, label, explanation, rule and kinds, then what the table shows."""
    info = build.vocabulary

    def token_text(token: int) -> str:
        return info[token].piece.decode("utf-8", errors="replace")

    def rule(row: LatentRow) -> str | None:
        words = rule_words(row.rule, info)
        return f"{words.words} {' '.join(words.labels)}".strip() if words else None

    number = pa.float64()
    fields = [
        Field("latent", pa.int32(), lambda row: row.latent),
        Field("label", pa.string(), lambda row: written.get(row.latent)),
        Field("explanation", pa.string(), lambda row: names.get(row.latent)), Field("rule", pa.string(), rule),
        Field("kinds", pa.list_(pa.string()), lambda row: list(row.flags)),
        Field("firings", pa.int64(), lambda row: row.n_tokens)]
    if asked.token is not None:
        fields += [Field("lift", number, lambda row: row.token_lift),
                   Field("firings_on_token", pa.int64(), lambda row: row.token_n),
                   Field("max_on_token", number, lambda row: row.token_max)]
    if asked.filters.logit is not None:
        fields.append(Field("logit", number, lambda row: row.logit))
    for column in (CHOOSABLE[name] for name in query.columns or CHOOSABLE):
        if column.id == "top":
            fields.append(Field("top_logits", pa.list_(pa.string()), lambda r: [token_text(t) for t in r.logit_pos]))
        elif column.id == SCORE_SORT:
            fields.append(Field("output_score", number, lambda row: asked.scores.get(row.latent)))
        elif column.value is not None:
            fields.append(Field("rule_f1" if column.id == "rule" else column.id, number, column.value))
    return fields


def _csv(fields: Sequence[Field], batches: Iterator[list[LatentRow]]) -> Iterator[bytes]:
    """Yield CSV with a line of names; lists are joined by spaces, and a `'` disarms what looks like a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([field.name for field in fields])
    for rows in batches:
        for row in rows:
            cells = (field.value(row) for field in fields)
            writer.writerow([harmless(" ".join(cell) if isinstance(cell, list) else cell) for cell in cells])
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()


def _parquet(fields: Sequence[Field], batches: Iterator[list[LatentRow]]) -> Iterator[bytes]:
    schema = pa.schema([(field.name, field.type) for field in fields])
    sink = Sink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in batches:
            columns = [pa.array([field.value(row) for row in rows], field.type) for field in fields]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            yield sink.take()
    yield sink.take()
