"""The page of a language model: its SAEs in one table, and plots of two measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from markupsafe import Markup

from app.pages.explore.measured_saes import Measured, MeasuredSae, Point, front, keys_in, points
from app.pages.explore.quality_views import written
from app.render.axis import tick_text
from app.render.charts import Frame
from app.render.numbers import compact, percent, whole
from app.render.trade_off import Spot, trade_off
from sae.evaluation.keys import key_of

DEFAULT_PLOTS = (("l0", "fvu"), ("l0", "delta_ce"))
_USUAL = ("fvu", "delta_ce", "l0", "dead_fraction")  # columns of measures that are always there
_TEXT = {"sae": "SAE", "site": "site", "architecture": "architecture"}
_NUMBERS = {"n_latents": "L", "k": "k", "trained": "trained on"}
_HINTS = {
    "n_latents": "number of latents", "k": "active latents on a token that the SAE was trained for",
    "trained": "tokens of text in training; an SAE that is trained for longer reconstructs better",
    "fvu": "fraction of variance unexplained on held-out text; 0 is a perfect reconstruction",
    "delta_ce": "rise of the language model's loss, in nats per token, when the reconstruction replaces activations",
    "l0": "active latents on a token, on average over held-out text",
    "dead_fraction": "share of latents that never fired on held-out text"}


@dataclass(frozen=True)
class ModelQuery:
    """The state of the page, all of it in its address."""

    site: str = ""
    architecture: str = ""
    find: str = ""  # part of a name
    x: str = ""
    y: str = ""
    sort: str = ""
    descending: bool = False
    grouped: bool = False

    @classmethod
    def read(cls, params: Mapping[str, str]) -> ModelQuery:
        """Read a request's query; unknown values change nothing."""
        return cls(
            params.get("site", "")[:300], params.get("architecture", "")[:80], params.get("find", "").strip()[:80],
            params.get("x", "")[:80], params.get("y", "")[:80], params.get("sort", "")[:80],
            params.get("dir") == "desc", params.get("group") == "architecture")

    def href(self, **changes: str | bool) -> str:
        """Return the address of this page with some of its state changed."""
        new = replace(self, **changes)  # type: ignore[arg-type]
        values = {"site": new.site, "architecture": new.architecture, "find": new.find, "x": new.x, "y": new.y,
                  "sort": new.sort, "dir": "desc" if new.sort and new.descending else "",
                  "group": "architecture" if new.grouped else ""}
        return "?" + urlencode({name: value for name, value in values.items() if value})


@dataclass(frozen=True)
class Column:
    """A column of the table with the address that sorts by it."""

    key: str
    name: str
    hint: str
    href: str
    numeric: bool
    sorted: str  # "", ascending or descending


@dataclass(frozen=True)
class Cell:
    """A number of the table.  `close`: its interval overlaps with the row above, so their order means nothing."""

    text: str
    interval: str = ""
    close: bool = False


@dataclass(frozen=True)
class Line:
    """A row of the table, perhaps the first of its architecture (`head`)."""

    row: MeasuredSae
    cells: list[Cell]
    head: str = ""


@dataclass(frozen=True)
class ModelPage:
    """Everything that the page shows."""

    query: ModelQuery
    sites: list[tuple[str, int]]
    architectures: list[str]
    keys: list[tuple[str, str]]  # measures that can be plotted, with their names
    columns: list[Column]
    lines: list[Line]
    plots: list[Markup]
    several_sites: bool
    repeated: bool  # whether a point of a plot is several seeds


def model_page(rows: Sequence[MeasuredSae], query: ModelQuery) -> ModelPage:
    """Return the page of a model's SAEs for this query."""
    sites: dict[str, int] = {}
    for row in rows:
        sites[row.site] = sites.get(row.site, 0) + 1
    keys = keys_in(rows)
    shown = [row for row in rows if query.site in ("", row.site) and query.architecture in ("", row.architecture)
             and query.find.lower() in row.name.lower()]
    measures = [*_USUAL, *dict.fromkeys(key for key in (query.x, query.y) if key in keys and key not in _USUAL)]
    columns = _columns(query, measures, rows)
    several = len({row.site for row in shown}) > 1
    plotted = [] if several else _plotted(query, keys, shown)
    return ModelPage(
        query, sorted(sites.items()), sorted({row.architecture for row in rows}),
        [(key, key_of(key).name) for key in keys], columns, _lines(shown, query, columns),
        [_plot(found, x, y) for x, y, found in plotted], several,
        any(point.n > 1 for _, _, found in plotted for point in found))


def _columns(query: ModelQuery, measures: Sequence[str], rows: Sequence[MeasuredSae]) -> list[Column]:
    definitions = {key: said for row in rows for key, said in row.definitions.items()}
    named = _TEXT | _NUMBERS | {key: "dead" if key == "dead_fraction" else "L0" if key == "l0" else key_of(key).name
                                for key in measures}
    if query.site or len({row.site for row in rows}) == 1:
        del named["site"]
    if query.grouped:
        del named["architecture"]
    found = []
    for key, name in named.items():
        here = _sort(query) == key
        best_high = key in _NUMBERS or key_of(key).better == "high"
        descending = not query.descending if here else best_high and key not in _TEXT
        found.append(Column(
            key, name, _HINTS.get(key) or definitions.get(key, ""), query.href(sort=key, descending=descending),
            key not in _TEXT, ("descending" if query.descending else "ascending") if here else ""))
    return found


def _sort(query: ModelQuery) -> str:
    return query.sort or "fvu"


def _lines(shown: Sequence[MeasuredSae], query: ModelQuery, columns: Sequence[Column]) -> list[Line]:
    key = _sort(query)
    known = [row for row in shown if _sortable(row, key) is not None]
    unknown = [row for row in shown if _sortable(row, key) is None]
    ordered = sorted(known, key=lambda row: _sortable(row, key), reverse=query.descending) + unknown  # type: ignore[arg-type,return-value]
    if query.grouped:
        ordered.sort(key=lambda row: row.architecture)  # stable: the order within an architecture stays
    lines: list[Line] = []
    for i, row in enumerate(ordered):
        above = ordered[i - 1] if i else None
        head = row.architecture if query.grouped and (above is None or above.architecture != row.architecture) else ""
        cells = [_cell(row, None if head else above, column.key, column.key == key) for column in columns[1:]]
        lines.append(Line(row, cells, head))
    return lines


def _sortable(row: MeasuredSae, key: str) -> float | str | None:
    if key in _TEXT:
        return str({"sae": row.name, "site": row.site, "architecture": row.architecture}[key]).lower()
    if key in _NUMBERS:
        return {"n_latents": row.n_latents, "k": row.k, "trained": row.trained}[key]
    return row.values[key].value if key in row.values else None


def _cell(row: MeasuredSae, above: MeasuredSae | None, key: str, sorted_by: bool) -> Cell:
    if key in ("site", "architecture"):
        return Cell(row.site if key == "site" else row.architecture)
    if key in _NUMBERS:
        value = _sortable(row, key)
        assert not isinstance(value, str)
        return Cell((compact if key == "trained" else whole)(value))
    found = row.values.get(key)
    if found is None:
        return Cell("–")
    close = sorted_by and above is not None and key in above.values and found.overlaps(above.values[key])
    low, high = found.bounds
    return Cell(written(key, found.value), f"{written(key, low)} to {written(key, high)}" if low < high else "", close)


# ---- plots


def _plotted(
    query: ModelQuery, keys: Sequence[str], shown: Sequence[MeasuredSae],
) -> list[tuple[str, str, list[Point]]]:
    chosen = [(query.x, query.y)] if query.x in keys and query.y in keys else list(DEFAULT_PLOTS)
    found = [(x, y, points(shown, x, y)) for x, y in chosen]
    return [(x, y, some) for x, y, some in found if some or len(chosen) == 1]


def _plot(found: Sequence[Point], x: str, y: str) -> Markup:
    """Draw two measures against each other, with the Pareto front of each architecture."""
    names = sorted({_series(point) for point in found})
    spots = [_spot(point, names) for point in found]
    fronts = []
    for number, name in enumerate(names):
        own = [point for point in found if _series(point) == name and not point.published]
        fronts.append((number, [_spot(point, names) for point in front(own, key_of(x).better, key_of(y).better)]))
    frame = Frame(
        f"{_short(y)} against {_short(x)}", _short(x), _short(y), 560, 340,
        x_format=lambda value: written(x, value), y_format=lambda value: written(y, value),
        y_tick=percent if key_of(y).form == "percent" else tick_text)
    return trade_off(spots, frame, names, fronts)


def _short(key: str) -> str:
    return key_of(key).name.removesuffix(", held-out text")


def _series(point: Point) -> str:
    return f"{point.architecture}, published" if point.published else point.architecture


def _spot(point: Point, names: Sequence[str]) -> Spot:
    def span(one: Measured) -> tuple[float, float, float]:
        return one.bounds[0], one.value, one.bounds[1]

    return Spot(span(point.x), span(point.y), names.index(_series(point)), point.name, point.href, point.published)
