"""The administrators' note on an SAE, and the mark that hides the SAE from lists.

Both are in `notes.json` in the SAE's folder, so they go where the SAE goes and outlive the app database.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.workspace.files import write_json

NOTES = "notes.json"
MAX_NOTE = 2_000


def read_notes(folder: Path) -> dict[str, Any]:
    """Return {"note": text, "hidden": bool} of an SAE's folder.  A missing or damaged file means none."""
    try:
        content = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    content = content if isinstance(content, dict) else {}
    return {"note": str(content.get("note", "")), "hidden": content.get("hidden") is True}


def write_notes(folder: Path, note: str, *, hidden: bool) -> None:
    """Write the note.  Raises UserError (field `note`) if it is too long."""
    note = note.replace("\r\n", "\n").replace("\0", " ").strip()
    if len(note) > MAX_NOTE:
        raise UserError(f"note: it has {len(note):,} characters; the limit is {MAX_NOTE:,}", "note")
    write_json(folder / NOTES, {"note": note, "hidden": hidden})
