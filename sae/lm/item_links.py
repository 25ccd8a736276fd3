"""Links and images of the items of a folder of vectors, read from the `.jsonl` files next to them.  No torch.

An object may have `url` (or `link`), an address of the web, and `image`, the path of an image file inside the folder.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from sae.errors import UserError
from sae.lm.item_files import item_files, said_by

MAX_IMAGE_BYTES = 20 * 2**20
_MAX_URL = 2000
# Content types by the first bytes of a file.  SVG is none of them, because it can hold programs.
_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"),
               (b"GIF89a", "image/gif"))


@dataclass(frozen=True)
class Item:
    """What an item is: its text as the vocabulary has it, its address, and its image's path inside the folder."""

    text: str
    url: str = ""
    image: str = ""


def items_of(folder: Path, tokens: Iterable[int]) -> dict[int, Item]:
    """Return the items of tokens that have a link or an image; none where the folder has changed or is gone."""
    try:
        files = item_files(folder) if folder.is_dir() else []
    except UserError:
        return {}
    ends, out = list(accumulate(file.n_items for file in files)), {}
    for token in sorted(set(tokens)):
        if not 1 <= token <= (ends[-1] if ends else 0):
            continue
        number = bisect.bisect_right(ends, token - 1)
        path = files[number].path.with_suffix(".jsonl")
        line = _line(path, token - 1 - (ends[number] - files[number].n_items))
        if line and (item := _item(line, path)) is not None:
            out[token] = item
    return out


def image_of(folder: Path, image: str) -> tuple[Path, str] | None:
    """Return the file of an image and its content type.

    None for a path that leads out of the folder, a file that is too large, and one that is no PNG, JPEG, GIF or WebP.
    """
    try:
        path = (folder / image).resolve()
        if Path(image).is_absolute() or not path.is_relative_to(folder.resolve()) or not path.is_file() or \
                path.stat().st_size > MAX_IMAGE_BYTES:
            return None
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return path, "image/webp"
    return next(((path, kind) for start, kind in _SIGNATURES if head.startswith(start)), None)


def _item(line: str, path: Path) -> Item | None:
    try:
        value = json.loads(line)
        text = said_by(line, path, 0)
    except (ValueError, UserError):
        return None
    if not isinstance(value, dict):
        return None
    url, image = value.get("url") or value.get("link"), value.get("image")
    url = url if isinstance(url, str) and len(url) <= _MAX_URL and _is_web(url) else ""
    image = image if isinstance(image, str) and image_of(path.parent, image) is not None else ""
    return Item(text, url, image) if url or image else None


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _line(path: Path, number: int) -> str:
    try:
        facts = path.stat()
        starts = _starts(path, facts.st_mtime_ns, facts.st_size)
        if number + 1 >= len(starts):
            return ""
        with path.open("rb") as file:
            file.seek(int(starts[number]))
            return file.read(int(starts[number + 1] - starts[number])).decode("utf-8", errors="replace")
    except OSError:
        return ""


@lru_cache(maxsize=16)
def _starts(path: Path, _mtime: int, size: int) -> np.ndarray:
    """Return where each line of a file starts, and its end."""
    starts, at = [0], 0
    with path.open("rb") as file:
        for line in file:
            at += len(line)
            starts.append(at)
    return np.array(starts, dtype=np.int64)
