"""Tests of uploads: complete, plainly named, limited in size, and deleted when refused or abandoned."""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path

import pytest

from app.library.uploads import KEEP_S, Uploads
from sae.errors import UserError


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path, 1_000)


def files(**named: bytes) -> list[tuple[str, io.BytesIO]]:
    return [(name.replace("__", "."), io.BytesIO(data)) for name, data in named.items()]


def archive(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        for name, data in members:
            opened.writestr(name, data)
    return out.getvalue()


def test_files_are_kept_under_plain_names(uploads: Uploads) -> None:
    token = uploads.stage([("C:\\my dir\\cfg.json", io.BytesIO(b"{}")), ("../../etc/x y.PT", io.BytesIO(b"1"))])
    folder = uploads.find(token)
    assert folder is not None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"cfg.json": b"{}", "x-y.pt": b"1"}
    assert [path.name for path in uploads.root.iterdir()] == [token]


def test_a_zip_is_unpacked(uploads: Uploads) -> None:
    token = uploads.stage(files(sae__zip=archive(("a/cfg.json", b"{}"), ("a/sae.safetensors", b"x"))))
    folder = uploads.find(token)
    assert folder is not None
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "a/cfg.json", "a/sae.safetensors"]


@pytest.mark.parametrize("named", [
    {"a__pt": bytes(1_001)}, {"a__pt": bytes(600), "b__pt": bytes(600)},
    {"a b__pt": b"1", "A-b__pt": b"2"}, {"a__zip": archive(("../x", b"1"))}, {"a__zip": b"PK no zip"},
])
def test_a_refused_upload_leaves_nothing(uploads: Uploads, named: dict[str, bytes]) -> None:
    with pytest.raises(UserError) as raised:
        uploads.stage(files(**named))
    assert raised.value.field == "source"
    assert not list(uploads.root.iterdir())


def test_an_upload_that_breaks_off_leaves_nothing(uploads: Uploads) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        uploads.stage([("a.pt", io.BytesIO(b"1")), ("b.pt", Broken())])
    assert not list(uploads.root.iterdir())


def test_abandoned_uploads_are_swept(uploads: Uploads) -> None:
    old, new = uploads.stage(files(a__pt=b"1")), uploads.stage(files(a__pt=b"2"))
    (uploads.root / ".dead.part").mkdir()
    os.utime(uploads.root / old, (time.time() - KEEP_S - 9,) * 2)
    uploads.sweep_abandoned()
    assert {path.name for path in uploads.root.iterdir()} == {new, ".dead.part"}
    uploads.sweep_unfinished()
    assert {path.name for path in uploads.root.iterdir()} == {new}


def test_a_token_is_no_path(uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / "uploads" / "x").mkdir(parents=True)
    assert uploads.find("x") is None
    assert uploads.find("../uploads") is None
    with pytest.raises(UserError, match="gone"):
        uploads.give("0" * 32, tmp_path / "run" / "upload")
