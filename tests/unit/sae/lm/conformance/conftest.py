"""Tiny random models by architecture, made and loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sae.lm.bridge import LanguageModel
from sae.lm.conformance.tiny_models import write_tiny_model

Tiny = Callable[[str], LanguageModel]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Loads a tiny random model of an architecture."""
    made: dict[str, LanguageModel] = {}

    def get(architecture: str) -> LanguageModel:
        if architecture not in made:
            folder: Path = tmp_path_factory.mktemp(architecture) / "model"
            write_tiny_model(architecture, folder)
            made[architecture] = LanguageModel.load(str(folder), "cpu")
        return made[architecture]

    return get


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products of this size gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
