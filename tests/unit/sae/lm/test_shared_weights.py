"""A plain model with the weights of a bridged one: nothing is in memory twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.lm.row_model import RowModel
from sae.lm.slow_row_model import open_row_model
from tests.unit.sae.lm.test_loading import TOKENS


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM"])
def test_steering_has_the_same_weights_in_memory_once(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(architecture, tmp_path)
    lm = LanguageModel.load(str(tmp_path), "cpu")
    monkeypatch.setattr("sae.lm.bridge.load_plain", lambda *_: pytest.fail("a second copy was loaded"))
    plain = lm.plain()
    ours = {tensor.untyped_storage().data_ptr() for tensor in lm.bridge.original_model.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in plain.parameters()} <= ours
    assert torch.allclose(plain(torch.tensor([TOKENS])).logits, lm.logits(torch.tensor([TOKENS])), atol=1e-4)
    assert isinstance(open_row_model(lm), RowModel)
