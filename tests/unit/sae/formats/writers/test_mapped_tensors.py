"""Safetensors without torch: mapped for reading, streamed for writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from sae.errors import UserError
from sae.formats.writers.mapped_tensors import mapped, stream


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
