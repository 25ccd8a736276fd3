"""Our own artefacts, read from another workspace."""

from __future__ import annotations

from pathlib import Path

import torch

from sae.formats.readers.registry import load
from tests.unit.sae.formats.readers.tensors import D
from tests.unit.sae.formats.saes import SAES


def test_our_own_artefact_comes_back_as_it_was(tmp_path: Path) -> None:
    sae, x_BD = load(SAES / "saelens" / "topk"), torch.randn(7, D)
    sae.config["site"]["hook"] = "blocks.0.hook_resid_post"
    sae.save(tmp_path / "one")
    again = load(tmp_path / "one")
    torch.testing.assert_close(again.reconstruct(x_BD), sae.reconstruct(x_BD))
    assert again.config["imported"]["format"].startswith("saescope")
