"""What an export is made of: named members, each a stream of bytes.  No torch.

Every writer of a format yields members; they become a folder, or a zip that is sent while it is
being made.  Nothing is held but the piece that is being written, so an export of any size
needs the same memory.  The members of one export are to be read one after another.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sae.errors import UserError
from sae.workspace.files import atomic_write

Member = tuple[str, Iterable[bytes]]
PACKED = (".gz", ".parquet", ".safetensors")  # deflating these again saves nothing


def write_folder(members: Iterable[Member], folder: Path, update: Callable[[str, int], None] = lambda name, n: None,
                 ) -> None:
    """Write the members below `folder`, which gets its name only when all of them are there.

    `update(member, bytes so far)` may raise to stop; nothing is left behind then.  Raises UserError
    (field `out`) where `folder` is there already.
    """
    if folder.exists():
        raise UserError(f"out: {folder} is there already; name a folder that is not", "out")
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
    """The members as a zip, below one folder `root`, as it is made: for a download or a pipe."""
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
    """The chunks as one gzip stream, level 5, without time or name in it."""
    packer = zlib.compressobj(5, wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


class Sink:
    """A file for writers that want one: keeps what was written until it is taken."""

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
        """Nothing waits anywhere."""

    def close(self) -> None:
        """Nothing to give back; what was written can still be taken."""

    def take(self) -> bytes:
        """All that was written since the last time."""
        data, self._chunks = b"".join(self._chunks), []
        return data
