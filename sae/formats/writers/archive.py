"""Exports as named members, each a stream of bytes.  No torch.

Every writer of a format yields members.  They become a folder, or a zip that is sent while it is
made.  Only the current piece is in memory, so the memory does not depend on the size of an export.
The members of one export must be read one after another.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sae.errors import UserError
from sae.workspace.files import atomic_write

Member = tuple[str, Iterable[bytes]]
PACKED = (".gz", ".parquet", ".safetensors")  # compressing these again saves nothing


def write_folder(members: Iterable[Member], folder: Path, update: Callable[[str, int], None] = lambda name, n: None,
                 ) -> None:
    """Write the members below `folder`, which appears only when it is complete.

    `update(member, bytes so far)` may raise to stop, and nothing is left behind then.  Raises UserError
    (field `out`) if `folder` exists or cannot be written.
    """
    if folder.exists():
        raise UserError(f"out: {folder} already exists; name a new folder", "out")
    written = 0
    try:
        with atomic_write(folder) as temporary:
            for name, chunks in members:
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        written += len(chunk)
                        update(name, written)
    except OSError as error:
        raise UserError(f"out: {folder} cannot be written: {error.strerror or error}", "out") from None


def stream_zip(members: Iterable[Member], root: str) -> Iterator[bytes]:
    """Yield the pieces of a zip with the members below one folder `root`, for a download or a pipe."""
    sink = Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=5) as archive:
        for name, chunks in members:
            info = zipfile.ZipInfo(f"{root}/{name}")
            info.compress_type = zipfile.ZIP_STORED if name.endswith(PACKED) else zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as entry:
                for chunk in chunks:
                    entry.write(chunk)
                    yield sink.take()
    yield sink.take()


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Compress the chunks to one gzip stream, at level 5, without time and name."""
    packer = zlib.compressobj(5, wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


class Sink:
    """A writable file object that keeps the written bytes until `take`."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        self._chunks.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing: written bytes are available at once."""

    def close(self) -> None:
        """Do nothing: written bytes can still be taken."""

    def take(self) -> bytes:
        """Return all bytes written since the last call."""
        data, self._chunks = b"".join(self._chunks), []
        return data
