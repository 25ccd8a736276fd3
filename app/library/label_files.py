"""Export and import of an SAE's labels, notes, tags and stars as JSON or CSV.

JSON is an object with `sae` and `labels`, a list of objects; CSV has a header line.  Both have the
columns latent, text, tags, note, starred, author, updated.  A file is read and checked completely
before anything is stored.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Label, Sae
from app.library import labels
from app.web.parameters import whole_number
from sae.errors import UserError

COLUMNS = ("latent", "text", "tags", "note", "starred", "author", "updated")
MAX_ROWS = 1_000_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # includes the escape mark itself, so that it can be removed again


def as_json(sae_id: str, rows: Sequence[Label]) -> str:
    values = [{name: getattr(row, name) for name in COLUMNS} for row in rows]
    return json.dumps({"sae": sae_id, "labels": values}, ensure_ascii=False, indent=1)


def as_csv(rows: Sequence[Label]) -> str:
    """Return the labels as CSV, with a `'` before cells that a spreadsheet would take for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_harmless(getattr(row, name)) for name in COLUMNS])
    return out.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value


def read(content: bytes, sae: Sae) -> list[dict[str, Any]]:
    """Return the rows of a file, each with its latent and the values that are given.  Raises UserError (`file`)."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("file: it is neither JSON nor CSV in UTF-8", "file") from None
    rows = _json_rows(text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(text)
    if len(rows) > MAX_ROWS:
        raise UserError(f"file: it has {len(rows):,} labels; the limit is {MAX_ROWS:,}", "file")
    return [_checked(number, row, sae) for number, row in enumerate(rows, 1)]


def _json_rows(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"file: it is not JSON: {error}", "file") from None
    rows = value.get("labels") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError("file: it has no list of labels", "file")
    return rows


def _csv_rows(text: str) -> list[Any]:
    try:
        reader = csv.DictReader(io.StringIO(text))
        if "latent" not in (reader.fieldnames or ()):
            raise UserError("file: the first line has no column “latent”", "file")
        return [{name: value.removeprefix("'") if _harmless(value[1:]) != value[1:] and value[0] == "'" else value
                 for name, value in row.items() if name and isinstance(value, str)} for row in reader]
    except csv.Error as error:
        raise UserError(f"file: it is not CSV: {error}", "file") from None


def _checked(number: int, row: Any, sae: Sae) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"file: label {number} is not an object", "file")
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
        out[name] = value
    if row.get("starred") is not None:
        out["star"] = str(row["starred"]).strip().lower() in ("1", "true", "yes")
    return out


def store(db: Session, sae: Sae, rows: Sequence[dict[str, Any]], author: str) -> int:
    """Store all rows in one transaction and return their number.  Values that a row does not give stay unchanged."""
    for row in rows:
        values = dict(row)
        labels.put(db, sae.id, values.pop("latent"), author, **values)
    db.commit()
    return len(rows)
