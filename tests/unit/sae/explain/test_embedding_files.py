"""The places in which word embeddings are looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sae.errors import UserError
from sae.explain.embedding import find_embedder
from sae.explain.embedding_files import PACKAGE, SETTING, embedder_folder, has_embedder, package_files
from tests.unit.sae.explain.test_embedding import write_embedder


def test_a_folder_then_the_setting_then_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    assert embedder_folder() == ""
    monkeypatch.setenv(SETTING, str(tmp_path / "set"))
    assert (embedder_folder(), embedder_folder("given")) == (str(tmp_path / "set"), "given")
    assert not has_embedder()
    (tmp_path / "set").mkdir()
    write_embedder(tmp_path / "set", embeddings=np.eye(3, dtype=np.float32))
    assert has_embedder()
    assert find_embedder().name == "set"


def test_the_package_of_the_extra_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    package = tmp_path / PACKAGE
    for folder in ("weights", "tokenizers"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_files() is None  # nothing in it
    assert not has_embedder()
    with pytest.raises(UserError, match=r"saescope\[embedding\]") as refused:
        find_embedder()
    assert refused.value.field == "embedding_model"
    write_embedder(package, **{"embedding.weight": np.eye(3, dtype=np.float16)})
    (package / "model.safetensors").rename(package / "weights" / "small.safetensors")
    (package / "tokenizer.json").rename(package / "tokenizers" / "small.json")
    assert has_embedder()
    found = find_embedder()
    assert found.name == PACKAGE
    np.testing.assert_allclose(found.encode(["cat"]), [[0, 1, 0]])
    assert PACKAGE not in sys.modules
