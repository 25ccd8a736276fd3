"""Models whose layers are on the disk or in few bits give the same numbers on every way of reading."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance.check import check
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.lm.slow_row_model import BridgeRowModel, open_row_model

TOKENS = [0, *range(5, 15)]
HOOKS = ["blocks.0.mlp.hook_post", "blocks.1.attn.hook_q:h1", "blocks.2.hook_resid_post"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llama") / "base"
    write_tiny_model("LlamaForCausalLM", folder)
    return folder


@pytest.fixture
def on_disk(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setenv("SAESCOPE_DEVICE_MAP", "auto")
    monkeypatch.setenv("SAESCOPE_MAX_MEMORY", "cpu=90KB")
    monkeypatch.setenv("SAESCOPE_OFFLOAD_FOLDER", str(tmp_path / "offload"))
    return LanguageModel.load(str(llama), "cpu")


def test_layers_on_the_disk_give_the_same_bits(llama: Path, on_disk: LanguageModel,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(tensor.is_meta for tensor in on_disk.bridge.original_model.parameters())
    for name in ("SAESCOPE_DEVICE_MAP", "SAESCOPE_MAX_MEMORY", "SAESCOPE_OFFLOAD_FOLDER"):
        monkeypatch.delenv(name)
    plain, tokens = LanguageModel.load(str(llama), "cpu"), torch.tensor([TOKENS])
    for one, other in zip(on_disk.activations_at(tokens, HOOKS), plain.activations_at(tokens, HOOKS), strict=True):
        assert torch.equal(one, other)
    assert torch.allclose(on_disk.unembedding("blocks.1.attn.hook_z"), plain.unembedding("blocks.1.attn.hook_z"),
                          atol=1e-5)
    edits = {"blocks.1.hook_resid_post": torch.zeros_like}
    rows = open_row_model(on_disk)
    assert isinstance(rows, BridgeRowModel)
    assert torch.allclose(rows.read(TOKENS, edits), plain.logits(tokens, edits)[0, -1], atol=1e-4)
    held = rows.new_rows(256)
    rows.read(TOKENS[:-1], rows=held)
    assert torch.allclose(rows.step(held, [0], {0: TOKENS[-1]}, {0: len(TOKENS) - 1})[0],
                          plain.logits(tokens)[0, -1], atol=1e-4)


@pytest.mark.heavy
def test_a_model_on_the_disk_is_checked(on_disk: LanguageModel) -> None:
    report = check(on_disk)
    assert not report.error
    assert not report.refused


def test_few_bits_need_their_library(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_MODEL_BITS", "4")
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(UserError, match=r"in 4 bits needs bitsandbytes; pip install 'saescope\[bits\]'") as error:
            LanguageModel.load(str(llama), "cpu")
        assert error.value.field == "model"
    else:
        lm = LanguageModel.load(str(llama), "cpu")
        assert lm.format_name == "float32 in 4 bits"
        (x,) = lm.activations_at(torch.tensor([TOKENS]), HOOKS[2:])
        monkeypatch.delenv("SAESCOPE_MODEL_BITS")
        (y,) = LanguageModel.load(str(llama), "cpu").activations_at(torch.tensor([TOKENS]), HOOKS[2:])
        assert 0 < (x - y).norm() / y.norm() < 0.5
