"""Readers for untrusted tensor files and zip files.

No pickle is executed: `weights_only=True`, and a file that needs more is refused.  Every size in a header is
checked against the size of the file before memory is allocated.  NaN and infinity are refused.  A zip file
cannot write outside its folder or unpack to more than a limit.  Every fault raises a `UserError` (field
`source`) of one line.  torch is imported only where tensors are read.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from sae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON_BYTES = 16 << 20
MAX_MEMBERS = 10_000
_MAX_YAML_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 64 << 30  # for a zip file given as a path; uploads have a limit of their own
_MAX_HEADER_BYTES = 100 << 20
_MAX_PICKLE_BYTES = 64 << 20
_MAX_DEFLATION = 100  # weights hardly compress; a zip bomb compresses a thousandfold
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def refuse(path: Path | str, reason: str) -> NoReturn:
    """Raise UserError for a file that cannot be used.  `reason` is cut to one line of 300 characters."""
    name = path.name if isinstance(path, Path) else path
    text = " ".join(reason.split())
    raise UserError(f"source: {name}: {text if len(text) < 300 else text[:297] + '...'}", "source")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.  Raises UserError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            refuse(path, f"has {path.stat().st_size:,} bytes, too many for a config")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        refuse(path, f"cannot be read as JSON: {error}")
    if not isinstance(value, dict):
        refuse(path, "is not a JSON object")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a small YAML file that holds a mapping; no object is made but plain ones.  Raises UserError."""
    import yaml  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            refuse(path, f"has {path.stat().st_size:,} bytes, too many for a config")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:
        refuse(path, f"cannot be read as YAML: {' '.join(str(error).split())[:200]}")
    if not isinstance(value, dict):
        refuse(path, "is not a YAML mapping")
    return {str(key): item for key, item in value.items()}


# ---- tensors


class Tensors(Mapping[str, "Tensor"]):
    """The tensors of a file.  Unlike `[]`, `take` checks shape, dtype and values."""

    def __init__(self, tensors: dict[str, Tensor], name: str, other: dict[str, Any] | None = None) -> None:
        self._tensors, self.name = tensors, name
        self.other = other or {}  # other values of a .pt file: numbers, strings, dictionaries
        self.used: set[str] = set()  # names that `take` was asked for

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.  Raises UserError if it does not exist."""
        if name not in self._tensors:
            refuse(self.name, f"has no tensor {name} (its tensors: {', '.join(sorted(self)[:12]) or 'none'})")
        return tuple(self._tensors[name].shape)

    def matrix(self, name: str) -> tuple[int, int]:
        """Return the two sizes of a matrix.  Raises UserError for another shape."""
        shape = self.shape(name)
        if len(shape) != 2 or min(shape) < 1:
            refuse(self.name, f"{name} should be a matrix, but its shape is {shape}")
        return shape[0], shape[1]

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the tensor as float32.  Raises UserError for another shape, for integers, for NaN and infinity."""
        found = self.shape(name)
        if found != shape:
            swapped = " (transposed)" if found == shape[::-1] else ""
            refuse(self.name, f"{name} should have shape {shape}, but has {found}{swapped}")
        self.used.add(name)
        tensor = self._tensors[name]
        if not tensor.is_floating_point():
            refuse(self.name, f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers")
        tensor = tensor.detach().float()
        if not bool(tensor.isfinite().all()):
            refuse(self.name, f"{name} holds values that are not finite")
        return tensor

    def number(self, name: str) -> float | None:
        """Return a tensor of one element as a number, or None if there is none.  Raises UserError."""
        value = self._tensors.get(name, self.other.get(name))
        if value is None or isinstance(value, str | bool | dict | list):
            return None
        if not isinstance(value, int | float):
            if value.numel() != 1 or value.is_complex():
                refuse(self.name, f"{name} should be one number, but its shape is {tuple(value.shape)}")
            value = value.item()
        if not math.isfinite(value):
            refuse(self.name, f"{name} is not finite")
        return float(value)

    @property
    def dtype(self) -> str:
        """Return the dtype of the largest tensor."""
        largest = max(self._tensors.values(), key=lambda tensor: tensor.numel(), default=None)
        return "" if largest is None else str(largest.dtype).removeprefix("torch.")


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of a `.safetensors`, `.npz`, `.pt`, `.pth` or `.bin` file.  Raises UserError."""
    if not path.is_file():
        refuse(path, "is missing")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    except UserError:
        raise
    except MemoryError:
        refuse(path, "does not fit into memory")
    except Exception as error:  # readers raise many kinds of errors for damaged files
        refuse(path, f"cannot be read: {type(error).__name__}: {error}")


def check_safetensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every tensor, checked against the file's size.  No torch.  Raises UserError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            refuse(path, f"is not a safetensors file, or is cut short: its header claims {length:,} bytes, but the "
                         f"file has {size:,}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            refuse(path, f"its safetensors header is not JSON: {error}")
    if not isinstance(header, dict):
        refuse(path, "its safetensors header is not a JSON object")
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            refuse(path, f"its safetensors header has an invalid entry for {name[:80]!r}")
        if dtype not in _DTYPE_BYTES:
            refuse(path, f"{name[:80]} has dtype {dtype[:20]}; supported are {', '.join(_DTYPE_BYTES)}")
        if end > size - 8 - length or end - begin != math.prod(shape) * _DTYPE_BYTES[dtype]:
            refuse(path, f"{name[:80]} should have {math.prod(shape) * _DTYPE_BYTES[dtype]:,} bytes by its shape, but "
                         "the file holds another number (is it cut short?)")
        found[name] = (dtype, shape)
    return found


def _read_safetensors(path: Path) -> Tensors:
    from safetensors.torch import load_file

    check_safetensors(path)
    return Tensors(load_file(path), path.name)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        refuse(path, f"is damaged or cut short: {error}")
    if len(members) > MAX_MEMBERS:
        refuse(path, f"holds {len(members):,} files, but at most {MAX_MEMBERS:,} are read")
    return members


def _read_npz(path: Path) -> Tensors:
    import torch

    size = path.stat().st_size
    for member in _members(path):
        if member.file_size > max(size, 1 << 20) * _MAX_DEFLATION:
            refuse(path, f"{member.filename[:80]} claims {member.file_size:,} bytes in a file of {size:,}")
    tensors = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                major, _ = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if dtype.hasobject or dtype.kind not in "fiub":
                    refuse(path, f"{name[:80]} has dtype {dtype}, which is not supported")
                if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    refuse(path, f"{name[:80]} claims shape {shape} of {dtype}, which does not match its size")
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    return Tensors(tensors, path.name)


def _read_torch(path: Path) -> Tensors:
    """Read a PyTorch file in the zip form.

    The older form is refused, because it makes the reader allocate memory before sizes can be checked.
    """
    import torch

    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        refuse(path, "is not a PyTorch file of version 1.6 or later, or is cut short; save it again with torch.save")
    members = _members(path)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or \
            sum(member.file_size for member in members) > size:
        refuse(path, "claims more bytes than the file holds")
    pickles = [member for member in members if member.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
        refuse(path, "is a zip file, but not one that torch.save wrote")
    try:
        # A memory-mapped storage cannot be larger than it is in the file.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            refuse(path, "is a pickle with more than tensors, and reading it would execute Python code, which is never "
                         "done here; save its state dict alone")
        raise
    if not isinstance(state, dict):
        refuse(path, f"holds a {type(state).__name__}, not a dictionary of tensors")
    tensors, other = {}, {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            other[str(name)] = _plain(value, path, size)
            continue
        tensors[str(name)] = _checked(value, str(name), path, size)
    return Tensors(tensors, path.name, other)


def _checked(tensor: Tensor, name: str, path: Path, size: int) -> Tensor:
    import torch

    usual = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not usual or tensor.numel() * tensor.element_size() > size:
        refuse(path, f"{name[:80]} claims shape {tuple(tensor.shape)}, which is not what the file holds")
    return tensor


def _plain(value: Any, path: Path, size: int) -> Any:
    """Return a value that is not a tensor, after checking the tensors in it if it is a dictionary."""
    import torch

    if isinstance(value, dict):
        return {str(key): _checked(item, str(key), path, size) if isinstance(item, torch.Tensor) else item
                for key, item in value.items()}
    return value


# ---- zip files


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive of files; .pt and .npz are zip files too, but not archives."""
    return path.is_file() and path.suffix.lower() == ".zip"


def unpack(path: Path, folder: Path, limit: int = MAX_UNPACKED_BYTES) -> None:
    """Unpack a zip file of at most `limit` bytes into an existing folder.

    Raises UserError and leaves files that are already unpacked for the caller to remove.
    """
    members = [m for m in _members(path) if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if sum(member.file_size for member in members) > limit:
        refuse(path, f"unpacks to more than {limit:,} bytes")
    for member in members:
        inside = PurePosixPath(member.filename)
        odd = "\\" in member.filename or ":" in member.filename or "\0" in member.filename
        if inside.is_absolute() or ".." in inside.parts or odd or not inside.parts:
            refuse(path, f"has a member named {member.filename[:80]!r}, which could leave the folder")
        kind = member.external_attr >> 28
        if kind not in (0, 8) or member.flag_bits & 1:
            refuse(path, f"{member.filename[:80]!r} is encrypted or is not a regular file")
        if member.file_size > max(member.compress_size, 1 << 16) * _MAX_DEFLATION:
            refuse(path, f"{member.filename[:80]!r} unpacks {member.compress_size:,} bytes to {member.file_size:,}")
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                target = folder / PurePosixPath(member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                left = member.file_size
                with archive.open(member) as source, open(target, "xb") as out:
                    while chunk := source.read(min(1 << 20, left + 1)):
                        left -= len(chunk)
                        if left < 0:
                            refuse(path, f"{member.filename[:80]!r} is longer than it claims")
                        out.write(chunk)
    except UserError:
        raise
    except Exception as error:  # zlib, zipfile and the file system raise different kinds
        refuse(path, f"cannot be unpacked: {type(error).__name__}: {error}")


def plain_files(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted, without links."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent) / name for name in sorted(names) if not (Path(parent) / name).is_symlink()]
    return found
