"""Checks of refusals, and zip files of any content."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from sae.errors import UserError


def one_line(error: UserError | str) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    assert text.startswith("source: ")


def zip_of(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path
