"""The demo model's training on the pretended device: backward, Muon, checkpoint, export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae.demo.text import Roots
from sae.demo.training import export, pretrain
from tests.pretended import pretend
from tests.unit.sae.demo.test_training import TINY, roots

__all__ = ["roots"]  # a fixture


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_weights_are_the_cpus_also_after_a_stop(kind: str, roots: Roots, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=3)
    expected = pretrain(recipe, tmp_path / "cpu", roots)
    with pretend(kind):
        assert pretrain(recipe, tmp_path / "device", roots, kind, minutes=0.0) is None
        found = pretrain(recipe, tmp_path / "device", roots, kind)
        assert found is not None
        assert {parameter.device.type for parameter in found.parameters()} == {kind}
        export(found, tmp_path / "device", recipe)
        weights = {name: tensor.cpu() for name, tensor in found.state_dict().items()}
    assert expected is not None
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
