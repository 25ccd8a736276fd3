"""Members as folders and zips, safetensors without torch, and histograms."""

from __future__ import annotations

import gzip
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from sae.errors import UserError
from sae.formats.histogram_bins import Bins, log_spaced
from sae.formats.writers.archive import gzipped, stream_zip, write_folder
from sae.formats.writers.mapped_tensors import mapped, stream

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


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["W_enc", "b", "θ"]), st.lists(st.integers(1, 5), min_size=1, max_size=3),
                       min_size=1))
def test_safetensors_are_what_the_library_reads(shapes: dict[str, list[int]]) -> None:
    arrays = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()}
    views = {name: array.T for name, array in arrays.items()}
    read = load(b"".join(stream(views)))
    for name, view in views.items():
        np.testing.assert_array_equal(read[name].numpy(), view)


def test_mapped_tensors_are_the_files(tmp_path: Path) -> None:
    tensors = {"W_dec": torch.randn(7, 5), "b": torch.randn(3), "none": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = mapped(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize("damage", [
    b"", b"\x00" * 8, (10**18).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]",
    (60).to_bytes(8, "little") + b'{"W":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(60) + b"\x00" * 8,
    (60).to_bytes(8, "little") + b'{"W":{"dtype":"F16","shape":[4],"data_offsets":[0,16]}}'.ljust(60) + b"\x00" * 16])
def test_damaged_weights_are_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(damage)
    with pytest.raises(UserError, match="cannot be read"):
        mapped(tmp_path / "x.safetensors")


@given(st.floats(0.01, 10), st.floats(1.05, 3), st.integers(4, 60), st.booleans(), st.data())
def test_bins_give_their_edges_back(low: float, step: float, n: int, log: bool, data: st.DataObject) -> None:
    edges = [low * step**i if log else low - 0.01 + (step - 1) * i for i in range(n + 1)]
    counts = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(any))
    bins = Bins.between(edges, counts)
    assert sum(bins.counts) == sum(counts)
    found = bins.edges()
    if len(bins.centres) >= 3 or (found and not log):
        start = next(i for i in range(n) if counts[i]) - 1
        for a, b in itertools.pairwise(range(len(found))):
            assert found[a] < found[b]
        np.testing.assert_allclose(found, edges[max(start, 0) :][: len(found)], rtol=1e-5, atol=1e-6)


def test_log_spaced_bins_are_detected() -> None:
    assert log_spaced(np.geomspace(0.1, 100, 64).tolist())
    assert log_spaced(np.geomspace(1, 1.4, 4).tolist())
    assert not log_spaced(np.linspace(0.3, 30, 50).tolist())
    assert not log_spaced([round(v, 3) for v in np.linspace(0.304, 30.073, 50)])
    assert not log_spaced([1.0, 2.0])
