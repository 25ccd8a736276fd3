"""Readers for untrusted files: sizes are checked before memory is taken, and nothing leaves the folder."""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import UserError
from sae.formats.untrusted_tensors import (
    Tensors,
    check_safetensors,
    is_archive,
    plain_files,
    read_json,
    read_tensors,
    refuse,
    unpack,
)
from tests.unit.sae.formats.hostile import one_line, zip_of


class Larger:
    """A tensor that claims to be larger than its storage."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.size, self.stride = size, stride

    def __reduce__(self) -> Any:
        storage = torch.zeros(4)._typed_storage()  # type: ignore[no-untyped-call]
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.size, self.stride, False, OrderedDict())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("size", "stride"), [
    ((1 << 40,), (1,)), ((1 << 20, 1 << 20), (0, 0)), ((4,), (1 << 40,)), ((-1,), (1,))])
def test_a_tensor_takes_no_more_memory_than_its_file(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    torch.save({"encoder.weight": Larger(size, stride)}, tmp_path / "ae.pt")
    with pytest.raises(UserError) as raised:
        read_tensors(tmp_path / "ae.pt")
    one_line(raised.value)


def test_an_archive_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "sae.zip", ("a.pt", os.urandom(5000)), ("b.pt", os.urandom(5000)))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="unpacks to more than 9,999 bytes"):
        unpack(path, tmp_path / "out", 9_999)
    assert not list((tmp_path / "out").iterdir())
    unpack(path, tmp_path / "out", 10_000)
    assert len(list((tmp_path / "out").iterdir())) == 2


# ---- tensors


def header_of(path: Path, entries: dict[str, Any], data: bytes = b"") -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(("changes", "reason"), [
    ({"shape": [1 << 40]}, "should have 4,398,046,511,104 bytes by its shape"), ({"shape": [2, -2]}, "invalid entry"),
    ({"shape": [2, 2.0]}, "invalid entry"), ({"shape": [2, True]}, "invalid entry"), ({"shape": 4}, "invalid entry"),
    ({"data_offsets": [0]}, "invalid entry"), ({"data_offsets": [8, 16]}, "another number"),
    ({"data_offsets": [4, 20]}, "another number"), ({"dtype": "F8_E4M3"}, "has dtype F8_E4M3; supported are"),
    ({"dtype": None}, "has dtype None")])
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = header_of(tmp_path / "x.safetensors", {"__metadata__": {"a": "b"}, "W": ENTRY}, bytes(16))
    assert check_safetensors(path) == {"W": ("F32", (2, 2))}
    assert read_tensors(path).shape("W") == (2, 2)
    with pytest.raises(UserError, match=reason) as raised:
        check_safetensors(header_of(path, {"W": ENTRY | changes}, bytes(16)))
    one_line(raised.value)


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_in_a_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".safetensors", ".npz", ".pt"):
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(content)
            with pytest.raises(UserError) as raised:
                read_tensors(path)
            one_line(raised.value)


def test_tensors_are_taken_only_with_the_wanted_shape_kind_and_values() -> None:
    tensors = Tensors({"W": torch.ones(2, 3, dtype=torch.bfloat16), "n": torch.tensor([2]), "i": torch.ones(2).int(),
                       "nan": torch.tensor([math.nan])}, "x.pt", {"k": 3, "name": "a", "inf": math.inf, "yes": True})
    assert torch.equal(tensors.take("W", (2, 3)), torch.ones(2, 3))
    assert tensors.take("W", (2, 3)).dtype == torch.float32
    assert (tensors.matrix("W"), tensors.dtype) == ((2, 3), "bfloat16")
    assert [tensors.number(name) for name in ("n", "k", "name", "yes", "missing")] == [2.0, 3.0, None, None, None]
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: tensors.take("W", (3, 2)), r"should have shape \(3, 2\), but has \(2, 3\) \(transposed\)"),
        (lambda: tensors.take("i", (2,)), "i holds int32, not floating-point"),
        (lambda: tensors.take("nan", (1,)), "not finite"), (lambda: tensors.number("nan"), "not finite"),
        (lambda: tensors.number("inf"), "not finite"), (lambda: tensors.number("W"), "should be one number"),
        (lambda: tensors.matrix("n"), "should be a matrix"), (lambda: tensors.shape("V"), r"has no tensor V \(its")]
    for take, reason in refused:
        with pytest.raises(UserError, match=reason) as raised:
            take()
        one_line(raised.value)


@pytest.mark.parametrize("content", ["[1]", "{", "\udcff", "[" * 50_000, "null"])
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError) as raised:
        read_json(tmp_path / "a.json")
    one_line(raised.value)
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_long_reason_is_cut_to_one_line() -> None:
    with pytest.raises(UserError) as raised:
        refuse("x.pt", "one\ntwo  " + "y" * 1000)
    one_line(raised.value)
    assert str(raised.value).startswith("source: x.pt: one two yyy")
    assert str(raised.value).endswith("yyy...")


# ---- folders


def test_links_are_no_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "folder").symlink_to(tmp_path / "b")
    assert [path.relative_to(tmp_path).as_posix() for path in plain_files(tmp_path)] == ["a", "b/1", "b/2"]


def test_only_zip_files_are_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    assert not is_archive(tmp_path / "a.npz")
    assert is_archive(zip_of(tmp_path / "a.ZIP", ("a", b"")))
    assert not is_archive(tmp_path / "missing.zip")
