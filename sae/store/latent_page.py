"""One page of the latent table, and the neighbours of a latent in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae.store.connection import MAX_PAGE
from sae.store.latent_query import Filters, Page, Query, decode_cursor, encode_cursor, sort_value
from sae.store.records import FLAGS, LatentRow, latent_row_of

if TYPE_CHECKING:
    from sae.store.build import Build

_COLUMNS = (
    "l.latent, l.n_tokens, l.density, l.max_act, l.mean_act, l.logit_kurtosis, l.logit_skew, l.mean_l0,"
    f" {', '.join(f'l.{flag}' for flag in FLAGS)}, l.logit_pos, l.skew_act, l.max_phi,"
    " l.mean_position, l.rule_kind, l.rule_tokens, l.rule_class, l.rule_precision, l.rule_recall, l.rule_f1")


def read_page(
    build: Build, query: Query, filters: Filters, token: int | None, cursor: str | None, limit: int,
) -> Page:
    """Return `limit` rows of a list after a cursor.

    Raises UserError (field `cursor`) for a cursor that cannot be used.
    """
    if cursor:
        clause, values = query.beyond(*decode_cursor(cursor))
        query.clauses.append(clause)
        query.parameters.extend(values)
    extra = ", t.n AS token_n, t.max_act AS token_max, t.lift AS token_lift" if token is not None else ""
    extra += ", g.value AS logit" if filters.logit is not None else ""
    rows, after = _read(build, query, limit, extra)
    return Page(rows, after, build.counted(filters, token)[0])


def read_some(build: Build, query: Query) -> list[LatentRow]:
    """Return the first `MAX_PAGE` rows of a list, without counting it."""
    return _read(build, query, MAX_PAGE)[0]


def _read(build: Build, query: Query, limit: int, extra: str = "") -> tuple[list[LatentRow], str | None]:
    """Return rows of a list, and the cursor after them."""
    # The other columns are read of the page's rows alone, also where DuckDB would join all rows of all columns first.
    rows = build._rows(
        f"SELECT {_COLUMNS}, {build.sorts['cosine']} AS nearest_cos, page.* EXCLUDE (latent)"
        f" FROM (SELECT l.latent, {query.key} AS sort_key{extra} FROM {query.source}{query.where}{query.order()}"
        f" LIMIT {limit + 1}) page JOIN latent l USING (latent){query.final_order()}", query.parameters)
    more = len(rows) > limit
    rows = rows[:limit]
    after = encode_cursor(rows[-1]["sort_key"], rows[-1]["latent"]) if more else None
    for row in rows:
        row["sort_value"] = sort_value(row["sort_key"])
    return [latent_row_of(row) for row in rows], after


def has_no_nan(build: Build, column: str) -> bool:
    """Return whether no latent has NaN in a column of the latents, which some sources of a build may have written."""
    found = build._rows(f"SELECT count(*) AS n FROM latent l WHERE isnan(CAST({column} AS DOUBLE))")
    return int(found[0]["n"]) == 0


def neighbours(build: Build, query: Query, key: float, latent: int) -> tuple[int | None, int | None]:
    """Return the latents before and after this one, whose sort key is `key`, in a list.

    Two passes over a column find them, which takes two fifths of the time of sorting the list in both directions.
    """
    k = query.key
    ((below, above, tie_after, tie_before),) = (row.values() for row in build._rows(
        f"SELECT max({k}) FILTER ({k} < ?) AS below, min({k}) FILTER ({k} > ?) AS above,"
        f" min(l.latent) FILTER ({k} = ? AND l.latent > ?) AS tie_after,"
        f" max(l.latent) FILTER ({k} = ? AND l.latent < ?) AS tie_before"
        f" FROM {query.source}{query.where}", [key, key, key, latent, key, latent, *query.parameters]))
    earlier, later = (above, below) if query.descending else (below, above)
    wanted = [other for other, tie in ((earlier, tie_before), (later, tie_after)) if tie is None and other is not None]
    ends: dict[float, tuple[int, int]] = {}
    if wanted:
        also = f"{query.where} AND" if query.where else " WHERE"
        ends = {row["sort_key"]: (row["first"], row["last"]) for row in build._rows(
            f"SELECT {k} AS sort_key, min(l.latent) AS first, max(l.latent) AS last FROM {query.source}"
            f"{also} {k} IN ({', '.join('?' for _ in wanted)}) GROUP BY sort_key", [*query.parameters, *wanted])}
    before = tie_before if tie_before is not None or earlier is None else ends[earlier][1]
    after = tie_after if tie_after is not None or later is None else ends[later][0]
    return before, after
