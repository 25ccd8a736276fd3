"""SAEs with their numbers side by side: the rows of a model's page, and points that repetitions share.

An SAE's numbers are its measures' values with their intervals, or else the metrics of its `sae.json`, which have none.
Published results of SAEs that are not here have rows, too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.db.tables import Evaluation, Sae
from app.pages.provenance import architecture_name, training_tokens
from sae.evaluation.keys import key_of
from sae.evaluation.published import PublishedResult

_OWN_METRICS = ("fvu", "l0", "delta_ce", "dead_fraction", "ce_recovered_zero", "ce_recovered_mean")
# Settings that do not make two trainings different SAEs: repetitions differ in them alone.
_REPEATED = frozenset({
    "seed", "name", "seconds", "tokens_per_s", "saes_trained_together", "device", "corpus", "index", "index_tokens",
    "top_contexts", "band_contexts", "near_misses", "eval_tokens", "ce_tokens", "shards", "map"})


@dataclass(frozen=True)
class Measured:
    """A number with its 95% interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the interval; without one the number alone."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def overlaps(self, other: Measured) -> bool:
        """Return whether two intervals overlap, so that neither number is the larger one for certain."""
        (low, high), (other_low, other_high) = self.bounds, other.bounds
        return low <= other_high and other_low <= high


@dataclass(frozen=True)
class MeasuredSae:
    """A row: an SAE, or a published result (`published` says where it is from)."""

    name: str
    href: str
    site: str
    architecture: str
    n_latents: int | None
    k: int | None
    trained: int | None
    values: Mapping[str, Measured] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)
    published: str = ""
    indexed: bool = False
    group: str = ""  # the same for trainings that differ in their seed alone


@dataclass(frozen=True)
class Point:
    """SAEs that differ in their seed alone, as one point: means, in intervals that enclose all of them."""

    name: str
    href: str
    architecture: str
    x: Measured
    y: Measured
    n: int = 1
    published: bool = False


def site_of(sae: Sae) -> str:
    """Return the SAE's hook point; of a transcoder both."""
    written = str((sae.config.get("site") or {}).get("out_hook") or "")
    return f"{sae.hook} → {written}" if written else sae.hook


def rows_of(saes: Sequence[Sae], values: Mapping[str, Mapping[str, Evaluation]]) -> list[MeasuredSae]:
    """Return the rows of SAEs of the workspace."""
    return [_row(sae, values.get(sae.id, {})) for sae in saes]


def _row(sae: Sae, found: Mapping[str, Evaluation]) -> MeasuredSae:
    metrics = sae.config.get("metrics") or {}
    values = {key: Measured(float(metrics[key])) for key in _OWN_METRICS if isinstance(metrics.get(key), int | float)}
    values |= {key: Measured(row.value, row.low, row.high) for key, row in found.items()}
    return MeasuredSae(
        sae.name, f"/{sae.id}", site_of(sae), architecture_name(sae.architecture), sae.n_latents, sae.k,
        training_tokens(sae), values, {key: row.definition for key, row in found.items() if row.definition},
        indexed=sae.current_build is not None, group=_group(sae))


def _group(sae: Sae) -> str:
    training = sae.config.get("training") or {}
    if "seed" not in training:
        return sae.id
    kept = {name: value for name, value in training.items() if name not in _REPEATED}
    return json.dumps([sae.architecture, sae.n_latents, sae.k, site_of(sae), kept], sort_keys=True, default=str)


def published_rows(results: Sequence[PublishedResult]) -> list[MeasuredSae]:
    """Return a row for each published SAE, with the values of all its results."""
    rows: dict[str, MeasuredSae] = {}
    for one in results:
        values = {key: Measured(value) for key, value in one.values.items()}
        earlier = rows.get(one.name)
        rows[one.name] = replace(earlier, values={**earlier.values, **values}) if earlier else MeasuredSae(
            one.name, "", one.hook, architecture_name(one.architecture) or "not stated", one.n_latents, one.k, None,
            values, published=one.source, group=f"published {one.name}")
    return list(rows.values())


def keys_in(rows: Sequence[MeasuredSae]) -> list[str]:
    """Return the keys of all rows, those of most rows first."""
    counts = Counter(key for row in rows for key in row.values)
    return sorted(counts, key=lambda key: (-counts[key], key_of(key).name.lower()))


def points(rows: Sequence[MeasuredSae], x: str, y: str) -> list[Point]:
    """Return the points of rows that have both numbers; trainings that differ in their seed alone share one."""
    groups: dict[str, list[MeasuredSae]] = {}
    for row in rows:
        if x in row.values and y in row.values:
            groups.setdefault(row.group or row.name, []).append(row)
    found = []
    for same in groups.values():
        first = same[0]
        more = f" and {len(same) - 1} more seed{'s' if len(same) > 2 else ''}" if len(same) > 1 else ""
        found.append(Point(first.name + more, first.href, first.architecture, _merged([row.values[x] for row in same]),
                           _merged([row.values[y] for row in same]), len(same), bool(first.published)))
    return found


def _merged(values: Sequence[Measured]) -> Measured:
    if len(values) == 1:
        return values[0]
    bounds = [one.bounds for one in values]
    return Measured(sum(one.value for one in values) / len(values), min(low for low, _ in bounds),
                    max(high for _, high in bounds))


def front(found: Sequence[Point], better_x: str, better_y: str) -> list[Point]:
    """Return the Pareto front sorted by x: the points that no other point beats.

    A point beats another if it is no worse in both numbers, and better in one of them beyond both intervals.  So points
    whose intervals overlap are on the front together.  `better_x` and `better_y` are "low" or "high"; [] where a
    direction is unknown.
    """
    if "" in (better_x, better_y):
        return []
    kept = [point for point in found if not any(_beats(other, point, better_x, better_y) for other in found)]
    return sorted(kept, key=lambda one: (one.x.value, one.y.value))


def _beats(one: Point, other: Point, better_x: str, better_y: str) -> bool:
    pairs = ((one.x, other.x, better_x), (one.y, other.y, better_y))
    no_worse = all((a.value <= b.value) if better == "low" else (a.value >= b.value) for a, b, better in pairs)
    return no_worse and any(not a.overlaps(b) for a, b, _ in pairs)
