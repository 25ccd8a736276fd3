"""Resolution of a model's name, before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sae.errors import UserError
from sae.lm.model_info import NO_LIMIT, check_layer, find_model


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


@pytest.mark.parametrize(("config", "sizes"), [
    ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 5, "hidden_size": 64}},
     (5, 64, 131_072, 262_208)),
    ({"model_type": "bloom", "n_layer": 3, "hidden_size": 64, "vocab_size": 99}, (3, 64, NO_LIMIT, 99)),
    ({"model_type": "bloom", "n_layer": 3, "n_embed": 64, "vocab_size": 99, "seq_length": 77}, (3, 64, 77, 99)),
    ({"model_type": "mpt", "n_layers": 3, "d_model": 64, "vocab_size": 99}, (3, 64, 2048, 99)),
    ({"model_type": "mamba", "num_hidden_layers": 3, "hidden_size": 64, "vocab_size": 99}, (3, 64, NO_LIMIT, 99)),
    ({"model_type": "falcon", "num_hidden_layers": 3, "hidden_size": 64, "vocab_size": 99}, (3, 64, 2048, 99)),
])
def test_sizes_that_are_left_to_the_library_are_asked_there(
    tmp_path: Path, config: dict[str, object], sizes: tuple[int, ...]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    info = find_model(str(tmp_path))
    assert (info.n_layers, info.d_model, info.n_ctx, info.d_vocab) == sizes


def test_a_process_without_the_library_asks_another(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mpt", "n_layers": 2, "vocab_size": 99}')
    code = f"import sys; from sae.lm.model_info import find_model; print(find_model({str(tmp_path)!r}).d_model); " \
           "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2048"), done.stderr


def test_an_encoder_decoder_model_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true, "d_model": 8}')
    with pytest.raises(UserError, match="an encoder-decoder model"):
        find_model(str(tmp_path))
