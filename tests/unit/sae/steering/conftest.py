"""A model and a text that the tests of this package share; tests must not change them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.lm.row_model import RowModel

TEXT = 'class Reader:\n    def read(self, path: str) -> list[str]:\n        return open(path).read()\n'


@pytest.fixture(scope="package")
def model(demo_lm: LanguageModel) -> RowModel:
    return RowModel(demo_lm)


@pytest.fixture(scope="package")
def ids(demo_lm: LanguageModel) -> list[int]:
    return [demo_lm.bos_id, *demo_lm.encode(TEXT)]


@pytest.fixture(scope="package")
def lm(demo_lm: LanguageModel) -> LanguageModel:
    return demo_lm


@pytest.fixture(scope="package")
def plain() -> Any:
    """Load the embedded model with Hugging Face's own code."""
    return AutoModelForCausalLM.from_pretrained(DEMO_PATH, dtype=torch.float32, attn_implementation="eager").eval()
