"""Folders of activations of anything: files of vectors, and what each vector belongs to.  No torch.

A folder holds `.npy` or `.safetensors` files, each with one matrix [items, d].  A file of the same name that ends in
`.txt` (a line an item) or `.jsonl` (an object or a string an item) says what the items are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae.errors import UserError

_TEXTS = ("text", "caption", "label", "name", "url", "link", "image", "path")  # of an object, by preference
_MAX_TEXT = 400  # characters of an item that are shown


@dataclass(frozen=True)
class ItemFile:
    """One file: its path, the number of its items, their width, and the name of the matrix in a `.safetensors`."""

    path: Path
    n_items: int
    width: int
    tensor: str = ""


def item_files(folder: Path) -> list[ItemFile]:
    """Return the files of vectors in a folder, in the order of their names; none in a folder of another kind.

    Raises UserError (field `model`) for a file without one matrix, or files of different widths.
    """
    if (folder / "config.json").exists():
        return []
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".safetensors") and path.is_file())
    files = [_opened(path) for path in paths]
    widths = sorted({file.width for file in files})
    if len(widths) > 1:
        raise UserError(f"model: the files of {folder} have vectors of widths {', '.join(map(str, widths))}; one SAE "
                        "reads one width", "model")
    return files


def _opened(path: Path) -> ItemFile:
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            shape, name, is_number = array.shape, "", array.dtype.kind == "f"
        else:
            shape, name, is_number = _matrix(path)
    except (OSError, ValueError) as error:
        raise UserError(f"model: {path} cannot be read: {error}", "model") from None
    if len(shape) != 2 or not is_number or 0 in shape:
        raise UserError(f"model: {path} has no matrix of floating-point numbers [items, width], but {list(shape)}",
                        "model")
    return ItemFile(path, shape[0], shape[1], name)


def _matrix(path: Path) -> tuple[tuple[int, ...], str, bool]:
    """Return the shape and the name of the one tensor of a `.safetensors`, and whether it holds floats."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= 1 << 24:
            raise ValueError("it has no header of safetensors")
        header: Any = json.loads(file.read(size))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors; give each file one")
    (name, entry), = tensors.items()
    return tuple(map(int, entry["shape"])), name, str(entry["dtype"]) in ("F16", "BF16", "F32", "F64")


def fingerprint(folder: Path) -> str:
    """Return a digest of the names, sizes and times of a folder's files."""
    facts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.iterdir())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def item_texts(file: ItemFile) -> Iterator[str]:
    """Yield what each item of a file is: its line, or its number where nothing says it.

    Raises UserError (field `model`) if the number of lines is not the number of items.
    """
    described = next((path for end in (".jsonl", ".txt") if (path := file.path.with_suffix(end)).is_file()), None)
    if described is None:
        yield from (f"{file.path.stem}#{number}" for number in range(file.n_items))
        return
    number = 0
    with described.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            yield said_by(line, described, number)
    if number != file.n_items:
        raise UserError(f"model: {described} has {number:,} lines, and {file.path.name} has {file.n_items:,} items; "
                        "give each item a line", "model")


def said_by(line: str, path: Path, number: int) -> str:
    """Return what a line says of its item.  Raises UserError (field `model`) for a line that is not JSON."""
    if path.suffix == ".txt":
        return line.rstrip("\r\n")[:_MAX_TEXT]
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"model: line {number} of {path} is not JSON: {error}", "model") from None
    if isinstance(value, dict):
        value = next((value[name] for name in _TEXTS if value.get(name)), line.strip())
    return str(value)[:_MAX_TEXT]
