"""The results of measures: one JSON file a measure in the SAE's folder, `evaluation/<measure>.json`.  No torch.

A file holds the measure's values with their intervals, its definitions, its detail, the anchors (other dictionaries
that were measured by the same code on the same text), and what the numbers depend on: text, seeds, build, version.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sae.workspace.files import write_json

FOLDER = "evaluation"
SCHEMA = 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_BYTES = 50_000_000  # of a file that is read


@dataclass(frozen=True)
class StoredValue:
    """One number of a measure as its file holds it."""

    key: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""
    definition: str = ""


@dataclass(frozen=True)
class Anchor:
    """The values of another dictionary, which show what a number means."""

    name: str  # what it is, such as "random dictionary"
    values: tuple[StoredValue, ...]
    note: str = ""

    def value(self, key: str) -> StoredValue | None:
        """Return the value with this key, if the anchor has it."""
        return next((one for one in self.values if one.key == key), None)


@dataclass(frozen=True)
class StoredResult:
    """The content of the file of one measure."""

    measure: str
    values: tuple[StoredValue, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    anchors: tuple[Anchor, ...] = ()
    refused: str = ""  # why the SAE could not be measured
    text: str = ""
    text_fingerprint: str = ""
    tokens: int = 0  # held-out tokens that the measure could read
    seeds: tuple[int, ...] = ()
    build: str = ""
    labels: str = ""
    run: str = ""
    command: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0  # most memory that the run's process has had up to the end of the measure
    created: float = 0.0
    saescope_version: str = ""

    def value(self, key: str) -> StoredValue | None:
        """Return the value with this key, if the measure has it."""
        return next((one for one in self.values if one.key == key), None)


def result_path(folder: Path, measure: str) -> Path:
    """Return the file of a measure in the folder of an SAE."""
    return folder / FOLDER / f"{measure}.json"


def write_result(folder: Path, result: StoredResult) -> None:
    """Write the file of a measure whole.  A refusal never replaces numbers."""
    earlier = read_result(folder, result.measure) if result.refused else None
    if earlier is None or not earlier.values:
        write_json(result_path(folder, result.measure), {"schema": SCHEMA, **finite(asdict(result))})


def read_result(folder: Path, measure: str) -> StoredResult | None:
    """Return the result of a measure, or None if its file is missing, damaged or of another schema."""
    path = result_path(folder, measure)
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def read_results(folder: Path) -> list[StoredResult]:
    """Return the results of an SAE, sorted by the name of the measure."""
    found = (read_result(folder, path.stem) for path in sorted((folder / FOLDER).glob("*.json"))
             if _NAME.fullmatch(path.stem))
    return [result for result in found if result is not None]


def from_json(content: Any) -> StoredResult:
    """Return the result that a file holds.  Raises ValueError if the content is none."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not _NAME.fullmatch(
            str(content.get("measure"))):
        raise ValueError("this is no result of a measure")
    try:
        known = {name: content[name] for name in StoredResult.__dataclass_fields__ if name in content}
        known["values"] = _values(content.get("values", ()))
        known["anchors"] = tuple(
            Anchor(str(one["name"]), _values(one["values"]), str(one.get("note", "")))
            for one in content.get("anchors", ()))
        known["seeds"] = tuple(int(seed) for seed in content.get("seeds", ()))
        result = StoredResult(**known)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no result of a measure: {error}") from None
    if not isinstance(result.detail, dict) or not all(
            isinstance(number, int | float) for number in (result.created, result.seconds, result.tokens)):
        raise ValueError("this is no result of a measure")
    return result


def _values(rows: Sequence[dict[str, Any]]) -> tuple[StoredValue, ...]:
    found = []
    for row in rows:
        numbers = {name: row.get(name) for name in ("value", "low", "high", "n")}
        if not all(number is None or isinstance(number, int | float) for number in numbers.values()):
            raise ValueError("a value is no number")
        found.append(StoredValue(
            key=str(row["key"]), note=str(row.get("note", "")), definition=str(row.get("definition", "")),
            **numbers))
    return tuple(found)


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which are not JSON, by null."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
