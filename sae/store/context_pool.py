"""Whole contexts of a build, drawn at random.  No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sae.store.build import Build


@dataclass(frozen=True)
class WholeContext:
    """All tokens of a context that the build keeps, from position `start` on (None: unknown)."""

    text: int
    ctx: int
    document: str
    start: int | None
    tokens: list[int]


_COLUMNS = """SELECT p.text, p.ctx, coalesce(d.name, '') AS document, p.start, t.tokens FROM
  (SELECT text, any_value(ctx) AS ctx, any_value(doc) AS doc, any_value(start - first) AS start FROM place {where}
   GROUP BY text {order}) p
  JOIN text t USING (text) LEFT JOIN document d USING (doc) ORDER BY {last}"""


def random_contexts(build: Build, n: int, seed: int = 0) -> list[WholeContext]:
    """Return at most `n` of the contexts that the build keeps for any latent.  The same seed gives the same ones."""
    sql = _COLUMNS.format(where="", order="ORDER BY hash(text, ?) LIMIT ?", last="hash(text, ?)")
    return [WholeContext(**row) for row in build._rows(sql, [seed, n, seed])]


def whole_contexts(build: Build, latents: Iterable[int], band: int) -> list[tuple[int, int, WholeContext]]:
    """Return (latent, peak, context) of the contexts of one band of some latents.

    `peak` is an index into the context's tokens.
    """
    rows = build._rows(
        "SELECT p.latent, p.first + p.peak AS peak, p.text, p.ctx, coalesce(d.name, '') AS document,"
        " p.start - p.first AS start, t.tokens FROM place p JOIN text t USING (text) LEFT JOIN document d USING (doc)"
        " WHERE p.latent IN (SELECT unnest(?::INTEGER[])) AND p.band = ? ORDER BY p.latent, p.rank",
        [list(latents), band])
    return [(row.pop("latent"), row.pop("peak"), WholeContext(**row)) for row in rows]
