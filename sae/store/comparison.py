"""Finished comparisons of two SAEs: one DuckDB file each, written once and read by the pages.  No torch.

    meta    key, value (JSON): a, b, model, tokens, text, mmcs_a, mmcs_b, command, created, run, versions
    match   side (0: latents of a, 1: of b), latent, fires (counted tokens), others and cosines (nearest
            decoder rows of the other SAE), mate and phi (the best match: the other's latent with the largest φ)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sae.errors import UserError
from sae.workspace.files import atomic_write
from sae.workspace.paths import Workspace

SCHEMA_VERSION = 1
PARTNER_COSINE = 0.7  # a latent whose largest cosine is smaller has no partner
PIECE_COSINE = 0.5  # the least cosine at which a fine latent belongs to its nearest coarse one
HISTOGRAM_BINS = 40
SORTS = {"cosine": "cosines[1]", "phi": "phi", "latent": "latent", "fires": "fires"}
_ROWS = "SELECT side, latent, fires, others, cosines, mate, phi FROM match"


@dataclass(frozen=True)
class Match:
    """A latent with its nearest latents in the other SAE.  `best_match` is None if no latent of the other fires with
    it.
    """

    latent: int
    fires: int
    others: list[int]
    cosines: list[float]
    best_match: int | None
    phi: float


@dataclass(frozen=True)
class Split:
    """A latent of one SAE, with the latents of the other that are nearest to it: (latent, cosine), nearest first."""

    latent: int
    pieces: list[tuple[int, float]]


def comparison_path(workspace: Workspace, a: str, b: str) -> Path:
    """Return the path of the comparison of two SAEs, in alphabetical order of their ids.

    Raises UserError (field `b`) if both are the same SAE.
    """
    first, second = sorted((a, b))
    if first == second:
        raise UserError("b: this is the same SAE as a; choose another one", "b")
    model, _, name = first.partition("/")
    return workspace.root / "comparisons" / model / f"{name}~{second.replace('/', '~')}.duckdb"


def write_comparison(path: Path, meta: Mapping[str, Any], matches: pa.Table) -> None:
    """Write the file atomically, replacing an older comparison of the same two SAEs."""
    with atomic_write(path) as temporary, duckdb.connect(str(temporary), config={"threads": 2}) as con:
        con.execute("CREATE TABLE meta (key VARCHAR, value VARCHAR)")
        values = {**meta, "schema_version": SCHEMA_VERSION}
        con.executemany("INSERT INTO meta VALUES (?, ?)", [(key, json.dumps(value)) for key, value in values.items()])
        con.register("source", matches)
        con.execute("CREATE TABLE match AS SELECT * FROM source ORDER BY side, latent")


class Comparison:
    """One finished comparison, with its own connection.  Close it after use."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, meta: dict[str, Any]) -> None:
        self._connection, self.meta = connection, meta

    @classmethod
    def open(cls, path: Path) -> Comparison:
        """Open a comparison.  Raises UserError (field `b`) if there is none, or if it cannot be read."""
        if not path.is_file():
            raise UserError("b: these two SAEs have not been compared yet", "b")
        try:
            connection = duckdb.connect(str(path), read_only=True, config={
                "threads": 2, "memory_limit": "512MB", "autoinstall_known_extensions": False,
                "autoload_known_extensions": False, "temp_directory": tempfile.gettempdir()})
            meta = {key: json.loads(value) for key, value in connection.execute("FROM meta").fetchall()}
        except (duckdb.Error, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"b: the comparison cannot be read ({reason}); run it again", "b") from None
        return cls(connection, meta)

    def close(self) -> None:
        self._connection.close()

    def _fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.cursor().execute(sql, list(parameters)).fetchall()

    def side_of(self, sae_id: str) -> int:
        """Return 0 or 1: the side of the comparison on which this SAE is.  Raises ValueError if it is neither."""
        return [self.meta["a"], self.meta["b"]].index(sae_id)

    def matches(
        self, side: int, sort: str = "cosine", descending: bool = True, only: str = "", offset: int = 0, limit: int = 50
    ) -> list[Match]:
        """Return alive latents of one side; with `only="alone"`, those without a partner.

        Raises UserError (field `sort`) for an unknown sort.
        """
        if sort not in SORTS:
            raise UserError(f"sort: {sort!r} is not one of {', '.join(SORTS)}", "sort")
        direction = "DESC" if descending else "ASC"
        rows = self._fetch(
            f"{_ROWS} WHERE side = ? AND fires > 0{_condition(only)} ORDER BY {SORTS[sort]} {direction}, latent"
            " LIMIT ? OFFSET ?", [side, limit, offset])
        return [_match(row) for row in rows]

    def match(self, side: int, latent: int) -> Match | None:
        """Return the matches of one latent, or None if there is no such latent."""
        rows = self._fetch(f"{_ROWS} WHERE side = ? AND latent = ?", [side, latent])
        return _match(rows[0]) if rows else None

    def of_latents(self, side: int, latents: Collection[int]) -> dict[int, Match]:
        """Return the matches of some latents of one side, by latent."""
        rows = self._fetch(f"{_ROWS} WHERE side = ? AND latent IN (SELECT unnest(?::INTEGER[]))", [side, list(latents)])
        return {match.latent: match for match in map(_match, rows)}

    def counts(self, side: int) -> dict[str, int]:
        """Count the alive latents (`living`), and the ones without a partner (`alone`)."""
        alive, alone = self._fetch(
            f"SELECT count(*), count(*) FILTER (WHERE true{_condition('alone')}) FROM match"
            " WHERE side = ? AND fires > 0", [side])[0]
        return {"living": alive, "alone": alone}

    def histogram(self, side: int) -> list[tuple[float, float, int]]:
        """Count alive latents by their largest cosine: (from, below, count), from −1 to 1."""
        width = 2 / HISTOGRAM_BINS
        rows = dict(self._fetch(
            "SELECT least(floor((cosines[1] + 1) / ?)::INTEGER, ?) AS bin, count(*) FROM match"
            " WHERE side = ? AND fires > 0 GROUP BY bin", [width, HISTOGRAM_BINS - 1, side]))
        return [(-1 + i * width, -1 + (i + 1) * width, rows.get(i, 0)) for i in range(HISTOGRAM_BINS)]

    def splits(self, side: int, limit: int = 50) -> list[Split]:
        """Return the latents of one side that are nearest to two or more of the other, those with most pieces first."""
        rows = self._fetch(
            "SELECT others[1] AS coarse, list([latent, cosines[1]] ORDER BY cosines[1] DESC, latent) AS pieces"
            " FROM match WHERE side = ? AND fires > 0 AND cosines[1] >= ? GROUP BY coarse HAVING count(*) >= 2"
            " ORDER BY count(*) DESC, coarse LIMIT ?", [1 - side, PIECE_COSINE, limit])
        return [Split(coarse, [(int(latent), cosine) for latent, cosine in pieces]) for coarse, pieces in rows]


def _condition(only: str) -> str:
    return f" AND cosines[1] < {PARTNER_COSINE}" if only == "alone" else ""


def _match(row: Sequence[Any]) -> Match:
    _, latent, fires, others, cosines, best_match, phi = row
    return Match(latent, fires, others, cosines, best_match if best_match >= 0 else None, phi)
