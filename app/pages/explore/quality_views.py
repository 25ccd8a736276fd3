"""The quality of an SAE as its page shows it: values with intervals, anchors, definitions and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from app.library.evaluations import results_of
from app.pages.explore.quality_figures import figures
from app.pages.explore.quality_tables import DetailTable, tables
from app.render.numbers import duration, moment, number, whole
from app.render.numbers import size as byte_size
from sae.evaluation.keys import key_of
from sae.evaluation.registry import ENTRIES
from sae.evaluation.results import StoredResult, StoredValue

CORE = "core"


@dataclass(frozen=True)
class QualityRow:
    """A value with its interval, its definition, and the same value of each anchor."""

    name: str
    definition: str
    value: str
    interval: str  # "" where none is known
    n: str
    note: str
    anchors: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """The result of one measure.  `rows` are shown at once, `more` on demand."""

    measure: str
    title: str
    about: str
    rows: list[QualityRow]
    more: list[QualityRow]
    anchors: list[tuple[str, str]]  # name and note
    figures: list[Markup]
    tables: list[DetailTable]
    facts: list[tuple[str, str]]  # what the numbers depend on
    refused: str
    read: str = ""  # the text behind the numbers, in a sentence


def parts(folder: Path, sae_id: str) -> dict[str, Any]:
    """Return the parts of an SAE's page: its `core` section or None, and the other sections (`measured`)."""
    found = [section(result, sae_id) for result in results_of(folder)]
    return {"core": next((one for one in found if one.measure == CORE), None),
            "measured": sorted((one for one in found if one.measure != CORE), key=lambda one: bool(one.refused))}


def section(result: StoredResult, sae_id: str) -> Section:
    """Return a measure's section."""
    entry = ENTRIES.get(result.measure)
    rows = [(key_of(value.key).main, _row(value, result)) for value in result.values]
    main = [row for is_main, row in rows if is_main]
    rest = [row for is_main, row in rows if not is_main]
    if not main and len(rest) <= 16:
        main, rest = rest, []
    elif not main:
        main, rest = rest[:12], rest[12:]
    return Section(
        result.measure, entry.title if entry else result.measure, entry.about if entry else "", main, rest,
        [(anchor.name, anchor.note) for anchor in result.anchors], figures(result.detail),
        tables(result.detail, sae_id), _facts(result), result.refused, _read_words(result))


def written(key: str, value: float | None) -> str:
    """Write a value of a measure in about four significant digits, shares as percentages."""
    form = key_of(key).form
    if form == "whole":
        return whole(value)
    if value is not None and form == "percent":
        return f"{number(100 * value, 2 if abs(value) < 0.1 else 1)}%"
    if value is None:
        return number(value)
    size = abs(value)
    return number(value, 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1)


def _row(value: StoredValue, result: StoredResult) -> QualityRow:
    shown = key_of(value.key)
    known = value.low is not None and value.high is not None
    anchors = tuple(
        written(value.key, found.value if (found := anchor.value(value.key)) else None) for anchor in result.anchors)
    return QualityRow(
        shown.name, value.definition, written(value.key, value.value),
        f"{written(value.key, value.low)} to {written(value.key, value.high)}" if known else "",
        whole(value.n), value.note, anchors)


def _read_words(result: StoredResult) -> str:
    """Say how much text is behind the core numbers, of which those of the loss have less."""
    sizes = [value.n if (value := result.value(key)) else None for key in ("fvu", "delta_ce")]
    if sizes[0] is None:
        return ""
    loss = f", CE and KL on {whole(sizes[1])} of them" if sizes[1] is not None else ""
    return f"Estimates on {whole(sizes[0])} held-out tokens{loss}."


def _facts(result: StoredResult) -> list[tuple[str, str]]:
    seeds = ", ".join(map(str, result.seeds))
    facts = [
        ("text", result.text), ("held-out tokens", whole(result.tokens) if result.tokens else ""),
        ("labels", result.labels), ("seeds" if len(result.seeds) > 1 else "seed", seeds), ("build", result.build),
        ("run", result.run), ("measured", moment(result.created) if result.created else ""),
        ("took", duration(result.seconds) if result.seconds else ""),
        ("memory of the run", byte_size(result.peak_bytes) if result.peak_bytes else ""),
        ("saescope", result.saescope_version), ("command", result.command)]
    return [(name, said) for name, said in facts if said]
