"""Export and import of an SAE's labels, notes, tags and stars as JSON or CSV.

JSON is an object with `sae` and `labels`, a list of objects; CSV has a header line.  Both have the
columns latent, text, tags, note, starred, author, updated.  A file is read and checked completely
before anything is stored.

Explanations of Neuronpedia are read too: JSON objects with `index` and `description`, as a list or one a line,
compressed or not.  A description that is too long for a label is cut, and is a note in full.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Label, Sae
from app.library import labels
from app.web.parameters import whole_number
from sae.errors import UserError

COLUMNS = ("latent", "text", "tags", "note", "starred", "author", "updated")
MAX_ROWS = 1_000_000
MAX_BYTES = 50_000_000
_GZIP = b"\x1f\x8b"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # includes the escape mark itself, so that it can be removed again


@dataclass(frozen=True)
class Imported:
    """Counts of the latents of a file that had no label before, another one, and the same one."""

    new: int = 0
    replaced: int = 0
    unchanged: int = 0


def as_json(sae_id: str, rows: Sequence[Label], starred: Collection[int] = ()) -> str:
    """Return the labels as JSON, with the reader's stars."""
    values = _rows(rows, starred)
    return json.dumps({"sae": sae_id, "labels": values}, ensure_ascii=False, indent=1)


def as_csv(rows: Sequence[Label], starred: Collection[int] = ()) -> str:
    """Return the labels as CSV, with the reader's stars.

    Cells that a spreadsheet would take for a formula have a `'` before them.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([[harmless(row[name]) for name in COLUMNS] for row in _rows(rows, starred)])
    return out.getvalue()


def _rows(rows: Sequence[Label], starred: Collection[int]) -> list[dict[str, Any]]:
    """Return the labels, and the latents that have nothing but a star, as rows."""
    bare = [Label(latent=latent, text="", tags="", note="", author="", updated=0.0)
            for latent in sorted(set(starred) - {row.latent for row in rows})]
    return [{name: row.latent in starred if name == "starred" else getattr(row, name) for name in COLUMNS}
            for row in (*rows, *bare)]


def harmless(value: Any) -> Any:
    """Return a cell of CSV with a `'` before it if a spreadsheet would take it for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value


def read(content: bytes, sae: Sae) -> list[dict[str, Any]]:
    """Return the rows of a file, each with its latent and the values that are given.  Raises UserError (`file`)."""
    if len(content) > MAX_BYTES:
        raise UserError(f"file: it is larger than {MAX_BYTES // 1_000_000} MB", "file")
    try:
        text = _unpacked(content).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("file: it is neither JSON nor CSV in UTF-8", "file") from None
    rows = _json_rows(text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(text)
    if len(rows) > MAX_ROWS:
        raise UserError(f"file: it has {len(rows):,} labels; the limit is {MAX_ROWS:,}", "file")
    return [_checked(number, row, sae) for number, row in enumerate(rows, 1)]


def _unpacked(content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    unpacking = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacking.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise UserError(f"file: it cannot be decompressed: {error}", "file") from None
    if unpacking.unconsumed_tail:
        raise UserError(f"file: it is larger than {MAX_BYTES // 1_000_000} MB when decompressed", "file")
    if not unpacking.eof:
        raise UserError("file: it is cut off, so it cannot be decompressed", "file")
    return unpacked


def _json_rows(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise UserError("file: its JSON is nested too deeply", "file") from None
    except ValueError as error:
        return _json_lines(text, error)
    if isinstance(value, dict) and "labels" not in value:
        return [value]  # a single line
    rows = value.get("labels") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError("file: it has no list of labels", "file")
    return rows


def _json_lines(text: str, fault: ValueError) -> list[Any]:
    """Read one JSON value a line.  Raises UserError with `fault` where the first line is none either."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            said = f"line {number} is not JSON: {error}" if rows else f"it is not JSON: {fault}"
            raise UserError(f"file: {said}", "file") from None
    return rows


def _csv_rows(text: str) -> list[Any]:
    try:
        reader = csv.DictReader(io.StringIO(text))
        if "latent" not in (reader.fieldnames or ()):
            raise UserError("file: the first line has no column “latent”", "file")
        return [{name: value.removeprefix("'") if harmless(value[1:]) != value[1:] and value[0] == "'" else value
                 for name, value in row.items() if name and isinstance(value, str)} for row in reader]
    except csv.Error as error:
        raise UserError(f"file: it is not CSV: {error}", "file") from None


def _checked(number: int, row: Any, sae: Sae) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"file: label {number} is not an object", "file")
    if "latent" not in row and "index" in row:
        row = _of_explanation(row)
    latent = str(row.get("latent", "")).strip()
    number_of = whole_number(latent, sae.n_latents)
    if number_of is None:
        raise UserError(f"file: label {number} names latent {latent[:20]!r}; {sae.id} has latents 0 to "
                        f"{sae.n_latents - 1}", "file")
    out: dict[str, Any] = {"latent": number_of}
    for name, limit in (("text", labels.MAX_TEXT), ("tags", labels.MAX_TEXT), ("note", labels.MAX_NOTE)):
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > limit:
            raise UserError(f"file: label {number}: {name} must be text of at most {limit:,} characters", "file")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"file: label {number}: {name} contains half of a surrogate pair, which is not a character",
                            "file")
        out[name] = value
    if row.get("starred") is not None:
        out["star"] = str(row["starred"]).strip().lower() in ("1", "true", "yes")
    return out


def _of_explanation(row: dict[str, Any]) -> dict[str, Any]:
    """Return an explanation of Neuronpedia as a row of labels."""
    said = row.get("description")
    if isinstance(said, str) and len(said) > labels.MAX_TEXT:
        return {"latent": row["index"], "text": said[: labels.MAX_TEXT - 1] + "…", "note": said[: labels.MAX_NOTE]}
    return {"latent": row["index"], "text": said}


def store(
    db: Session, sae: Sae, rows: Sequence[dict[str, Any]], author: str, star: Callable[..., None] | None = None,
) -> Imported:
    """Store all rows in one transaction.  Values that a row does not give stay unchanged.

    `star(latent, on=…)` stores the stars without a commit; without it they are not stored.
    """

    def write() -> Imported:
        before: dict[int, tuple[Any, ...]] = {}
        after: dict[int, tuple[Any, ...]] = {}
        for row in rows:
            latent, on = row["latent"], row.get("star")
            if star is not None and on is not None:
                star(latent, on=on)
            before.setdefault(latent, _written(labels.get(db, sae.id, latent)))
            after[latent] = _written(labels.put(
                db, sae.id, author=author, **{name: value for name, value in row.items() if name != "star"}))
        new = sum(not any(said) for said in before.values())
        replaced = sum(any(said) and said != after[latent] for latent, said in before.items())
        return Imported(new, replaced, len(before) - new - replaced)

    return labels.commit(db, write)


def _written(label: Label | None) -> tuple[Any, ...]:
    return () if label is None else (label.text, label.note, label.tags)
