"""Members as folders, zips and gzip files."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import UserError
from sae.formats.writers.archive import gzipped, stream_zip, write_folder

FILES = {"a.txt": [b"one", b"", b"two"], "in/b.bin.gz": [b"\x00" * 10], "empty": []}


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    seen: list[int] = []
    write_folder(FILES.items(), tmp_path / "out", lambda name, n: seen.append(n))
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"onetwo"
    assert (tmp_path / "out" / "in" / "b.bin.gz").read_bytes() == b"\x00" * 10
    assert (tmp_path / "out" / "empty").read_bytes() == b""
    assert seen[-1] == 16
    with pytest.raises(UserError, match="already exists"):
        write_folder(FILES.items(), tmp_path / "out")


def test_a_stopped_export_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield "a.txt", [b"one"]
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write_folder(broken(), tmp_path / "out")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_zip_is_sent_while_it_is_made() -> None:
    made = []

    def chunks() -> object:
        for i in range(3):
            made.append(i)
            yield bytes([i]) * 100_000

    stream_of = stream_zip([("big.gz", chunks()), *FILES.items()], "root")  # type: ignore[list-item]
    first = next(stream_of)
    assert first
    assert made == [0]
    archive = zipfile.ZipFile(io.BytesIO(first + b"".join(stream_of)))
    assert archive.testzip() is None
    assert archive.read("root/a.txt") == b"onetwo"
    assert len(archive.read("root/big.gz")) == 300_000


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_gzip_in_pieces(chunks: list[bytes]) -> None:
    assert gzip.decompress(b"".join(gzipped(chunks))) == b"".join(chunks)
