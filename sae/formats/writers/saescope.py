"""Writer of an SAE as our own artefact, `sae.json` and `sae.safetensors`, for another workspace.  No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.formats.writers.archive import Member

_CHUNK = 8 << 20


def members(folder: Path, config: Mapping[str, Any]) -> Iterator[Member]:
    """Yield the two files of the artefact in `folder`.  Raises UserError (field `sae`) if it has no weights."""
    weights = folder / "sae.safetensors"
    if not weights.is_file():
        raise UserError(f"sae: {config['id']} has no weights here; only its dashboard can be exported", "sae")
    yield "sae.json", [json.dumps(config, indent=1, allow_nan=False).encode()]
    yield "sae.safetensors", _pieces(weights)


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
