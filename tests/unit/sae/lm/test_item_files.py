"""Folders of vectors: which files are read, and what their items are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.errors import UserError
from sae.lm.item_files import fingerprint, item_files, item_texts


@pytest.mark.parametrize(("array", "said"), [
    (np.zeros((3, 4), np.int64), "no matrix of floating-point numbers"), (np.zeros(4, np.float32), "no matrix"),
    (np.array([{}]), "cannot be read")])
def test_other_files_are_refused(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=said) as error:
        item_files(tmp_path)
    assert error.value.field == "model"


def test_items_are_their_lines_or_their_numbers(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"image": "x.png", "n": 1}) + "\n" + json.dumps("plain") + "\n")
    files = item_files(tmp_path)
    assert [list(item_texts(file)) for file in files] == [["one", "two"], ["x.png", "plain"], ["c#0", "c#1"]]
    before = fingerprint(tmp_path)
    (tmp_path / "a.txt").write_text("one\nother\n")
    assert fingerprint(tmp_path) != before


def test_a_model_folder_and_a_file_of_several_tensors_are_no_items(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 3), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds 2 tensors"):
        item_files(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert item_files(tmp_path) == []
