"""Resolution of a model's name, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.lm.model_info import check_layer, find_model


def test_the_embedded_model() -> None:
    info = find_model("demo")
    assert (info.id, info.local, info.n_layers, info.d_model, info.n_ctx, info.d_vocab) == (
        "demo", True, 4, 256, 256, 8192)


def test_a_directory_of_either_naming(tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(
        {"n_layer": 3, "n_embd": 16, "n_positions": 32, "vocab_size": 99}))
    info = find_model(str(folder))
    assert (info.id, info.n_layers, info.d_model, info.n_ctx, info.d_vocab) == ("my-model", 3, 16, 32, 99)
    check_layer(info, 2, 32)


@pytest.mark.parametrize(("layer", "context", "field"), [(4, 128, "layer"), (-1, 128, "layer"),
                                                         (0, 257, "context_length")])
def test_a_site_that_is_not_there_is_refused(layer: int, context: int, field: str) -> None:
    with pytest.raises(UserError) as refused:
        check_layer(find_model("demo"), layer, context)
    assert refused.value.field == field


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"n_layer": "three"}'])
def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as refused:
        find_model(str(tmp_path))
    assert refused.value.field == "model"


@pytest.mark.parametrize("name", ["gpt2", "someone/some-model", "/no/such/folder", "./nothing", "a/b/c", "two words"])
def test_what_cannot_be_had_says_what_to_do(name: str) -> None:
    with pytest.raises(UserError) as refused:
        find_model(name)
    assert refused.value.field == "model"
    assert name in str(refused.value)
