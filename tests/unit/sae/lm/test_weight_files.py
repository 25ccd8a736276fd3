"""Loaded weights compared with the model's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sae.lm.model_info import DEMO_PATH, ModelInfo
from sae.lm.weight_files import equal_to_files


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    save_file({"h.0.weight": torch.arange(6.0).view(2, 3).bfloat16()}, tmp_path / "a.safetensors")
    save_file({"lm_head.weight": torch.ones(2)}, tmp_path / "b.safetensors")
    return ModelInfo("x", "x", str(tmp_path), True, 1, 2, 8, 8)


def test_equal_weights_in_any_format_and_with_or_without_their_first_name(info: ModelInfo) -> None:
    weights = [("transformer.h.0.weight", torch.arange(6.0).view(2, 3)), ("lm_head.weight", torch.ones(2))]
    assert equal_to_files(info, weights)
    changed = torch.arange(6.0).view(2, 3)
    changed[1, 2] += 2**-20
    assert not equal_to_files(info, [("transformer.h.0.weight", changed)])
    assert not equal_to_files(info, [("transformer.h.0.weight", torch.arange(6.0).view(3, 2))])
    assert not equal_to_files(info, [("transformer.h.1.weight", torch.ones(2))])


def test_what_cannot_be_said_is_no(info: ModelInfo, tmp_path: Path) -> None:
    ones = [("lm_head.weight", torch.ones(2))]
    assert equal_to_files(info, ones)
    assert not equal_to_files(info, [("lm_head.weight", torch.ones(2, device="meta"))])
    assert not equal_to_files(replace(info, adapter=str(DEMO_PATH)), ones)
    assert not equal_to_files(replace(info, source=str(tmp_path / "none")), ones)
    (tmp_path / "c.safetensors").write_bytes(b"no tensors")
    assert not equal_to_files(info, ones)
