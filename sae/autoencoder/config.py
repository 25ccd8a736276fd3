"""The `sae.json` of an artefact, read and updated without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.workspace.files import write_json

SCHEMA_VERSION = 1


def read_config(folder: Path) -> dict[str, Any]:
    """Return the `sae.json` of an artefact folder.  Raises UserError (field `sae`)."""
    try:
        config: Any = json.loads((folder / "sae.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"sae: there is no SAE in {folder}", "sae") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"sae: {folder / 'sae.json'} is not JSON: {error}", "sae") from None
    if not isinstance(config, dict):
        raise UserError(f"sae: {folder / 'sae.json'} is not a JSON object", "sae")
    if config.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"sae: {folder} has schema_version {config.get('schema_version')}, not {SCHEMA_VERSION}", "sae")
    return config


def update_config(folder: Path, **values: Any) -> None:
    """Set values in the `sae.json` of an artefact folder without touching its weights.  Raises UserError (field
    `sae`).
    """
    write_json(folder / "sae.json", read_config(folder) | values)
