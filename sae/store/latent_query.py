"""Lists of latents: filters, sort keys, and paging that neither skips nor repeats a latent.

A page begins after a *cursor*, the sort key and number of the last latent shown.  A build never changes and the pair
is unique, so every latent of the list appears exactly once.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sae.errors import UserError
from sae.store.records import FLAGS, LatentRow

# Name in a URL -> column.  The last three need a token, and "logit" needs the filter by a logit.
SORTS = {
    "latent": "l.latent", "density": "l.density", "max": "l.max_act", "mean": "l.mean_act",
    "kurtosis": "l.logit_kurtosis", "logit_skew": "l.logit_skew", "skew": "l.skew_act", "phi": "l.max_phi",
    "rule": "l.rule_f1", "cosine": "l.nearest_cos", "l0": "l.mean_l0", "position": "l.mean_position",
    "token": "t.n", "token_max": "t.max_act", "lift": "t.lift",
}
TOKEN_SORTS = frozenset({"token", "token_max", "lift"})
LOGIT_SORT = "logit"  # by how much the latent raises the logit that the filters name
SCORE_SORT = "score"  # by numbers that the filters bring, because they are not in the build
ALIVE = "alive"
# Name -> (from, below) in density; None is open.
DENSITIES: dict[str, tuple[float | None, float | None]] = {
    "1e-5": (None, 1e-5), "1e-4": (1e-5, 1e-4), "1e-3": (1e-4, 1e-3), "1e-2": (1e-3, 1e-2), "1e-1": (1e-2, 1e-1),
    "1": (1e-1, None),
}
_LAST = 1e308  # replaces a missing key, which comes last in either direction


@dataclass(frozen=True)
class Filters:
    """Conditions on the latents of a list.

    All of `flags` hold, the density is in the decade `density`, the number is in `among`, and the token `logit` is
    among those whose logit the latent raises most.  `scores` are pairs (latent, number) to sort by that the build does
    not contain; they leave no latent out.  With `rule_scores`, a rule with at least this F1 counts as a score, too.
    `ruled` is (least F1, numbers, wanted): whether the latent has such a rule, or one of the numbers.  Raises UserError
    (field `flag` or `density`) for an unknown name.
    """

    flags: frozenset[str] = frozenset()
    density: str = ""
    among: frozenset[int] | None = None
    logit: int | None = None
    scores: tuple[tuple[int, float], ...] = ()
    rule_scores: float | None = None
    ruled: tuple[float, frozenset[int], bool] | None = None

    def __post_init__(self) -> None:
        for flag in self.flags:
            if flag not in (*FLAGS, ALIVE):
                raise UserError(f"flag: {flag!r} is not one of {', '.join((*FLAGS, ALIVE))}", "flag")
        if self.density and self.density not in DENSITIES:
            raise UserError(f"density: {self.density!r} is not one of {', '.join(DENSITIES)}", "density")


@dataclass(frozen=True)
class Page:
    """Rows of a list, the cursor after them (None at the end) and the row count of the whole list."""

    rows: list[LatentRow]
    next_cursor: str | None
    total: int


@dataclass
class Query:
    """The FROM and WHERE of a list, its parameters, and its sort key as SQL.

    `column` is the bare column, if it sorts as the key does.  DuckDB then skips the parts of the table whose extremes
    cannot be on the page, and need not compute the key of every latent.
    """

    key: str
    descending: bool
    column: str = ""
    source: str = "latent l"
    clauses: list[str] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f" WHERE {' AND '.join(self.clauses)}" if self.clauses else ""

    def order(self) -> str:
        """Return the ORDER BY."""
        return f" ORDER BY {self.column or self.key} {'DESC' if self.descending else 'ASC'} NULLS LAST, l.latent ASC"

    def final_order(self) -> str:
        """Return the ORDER BY of selected rows, whose key is the column `sort_key`."""
        return f" ORDER BY sort_key {'DESC' if self.descending else 'ASC'}, latent ASC"

    def beyond(self, key: float, latent: int) -> tuple[str, list[Any]]:
        """Return the condition of coming after the latent with this key, and its parameters."""
        sign = "<" if self.descending else ">"
        return f"({self.key} {sign} ? OR ({self.key} = ? AND l.latent > ?))", [key, key, latent]


def build_query(
    sort: str, descending: bool, filters: Filters, token: int | None,
    raised: tuple[Sequence[int], Sequence[float]] = ((), ()), *, sorts: Mapping[str, str] = SORTS,
    numbers_only: bool = False,
) -> Query:
    """Build the list's SQL.  `raised` are the latents that raise the logit of the filters, and how much.

    `sorts` has the column of each sort.  `numbers_only` says that no value of the sort's column is NaN, which DuckDB
    takes for the largest number.

    Raises UserError (field `sort`) for an unknown sort, or one that needs a token.
    """
    usable = {name: column for name, column in sorts.items() if token is not None or name not in TOKEN_SORTS}
    if filters.logit is not None:
        usable[LOGIT_SORT] = "g.value"
    scored = bool(filters.scores) or filters.rule_scores is not None
    if scored:
        usable[SCORE_SORT] = "s.score" if filters.rule_scores is None else (
            f"greatest(s.score, CASE WHEN l.rule_f1 >= {filters.rule_scores!r} THEN round(l.rule_f1::DOUBLE, 6) END)")
    if sort not in usable:
        raise UserError(f"sort: {sort!r} is not one of {', '.join(usable)}", "sort")
    column, missing = f"CAST({usable[sort]} AS DOUBLE)", -_LAST if descending else _LAST
    # A number is never missing, and without the condition DuckDB knows that the rows are in its order.
    key = usable[sort] if sort == "latent" else (
        f"(CASE WHEN {column} IS NULL OR isnan({column}) THEN {missing!r} ELSE {column} END)")
    query = Query(key, descending, usable[sort] if numbers_only else "")
    if token is not None:
        query.source = "latent l JOIN token_latent t ON t.latent = l.latent"
    if scored:  # its parameters come before the parameters of every clause
        query.source += (" LEFT JOIN (SELECT unnest(?::INTEGER[]) AS latent, unnest(?::DOUBLE[]) AS score) s"
                         " ON s.latent = l.latent")
        query.parameters += [[pair[i] for pair in filters.scores] for i in range(2)]
    if filters.logit is not None:
        query.source += (" JOIN (SELECT unnest(?::INTEGER[]) AS latent, unnest(?::FLOAT[]) AS value) g"
                         " ON g.latent = l.latent")
        query.parameters += [list(column) for column in raised]
    if token is not None:
        query.clauses.append("t.token = ?")
        query.parameters.append(token)
    query.clauses.extend("NOT l.dead" if flag == ALIVE else f"l.{flag}" for flag in sorted(filters.flags))
    if filters.density:
        query.clauses.append(density_clause(filters.density))
    if filters.ruled is not None:
        least, numbers, wanted = filters.ruled
        query.clauses.append("(coalesce(l.rule_f1 >= ?, false) OR l.latent IN (SELECT unnest(?::INTEGER[]))) = ?")
        query.parameters += [least, sorted(numbers), wanted]
    if filters.among is not None:
        query.clauses.append("l.latent IN (SELECT unnest(?::INTEGER[]))")
        query.parameters.append(sorted(filters.among))
    return query


def sort_value(key: float) -> float | None:
    """Return the number behind a sort key, or None if it is missing."""
    return None if abs(key) == _LAST else key


def density_clause(name: str) -> str:
    """Return the SQL condition of a decade of densities; dead latents are in none."""
    low, high = DENSITIES[name]
    parts = ["l.density > 0"] if low is None else [f"l.density >= {low!r}"]
    return " AND ".join(parts if high is None else [*parts, f"l.density < {high!r}"])


def encode_cursor(key: float, latent: int) -> str:
    """Encode an opaque, URL-safe cursor that keeps the float exactly."""
    return base64.urlsafe_b64encode(json.dumps([key, latent]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[float, int]:
    """Decode a cursor's key and latent.  Raises UserError (field `cursor`)."""
    try:
        key, latent = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        key, latent = float(key), int(latent)
    except (ValueError, TypeError, OverflowError):
        raise UserError("cursor: not a cursor of this list; start again without it", "cursor") from None
    if not math.isfinite(key) or not 0 <= latent < 2**31:
        raise UserError("cursor: not a cursor of this list; start again without it", "cursor")
    return key, latent
