"""The map of directions: principal components, or UMAP where it is installed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from sae.index.directions import planar_map


def test_umap_draws_the_map_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            asked["rows"] = rows
            return rows[:, :2]

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    spec = importlib.machinery.ModuleSpec("umap", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "umap" else None)
    W_LD = 3 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    living_L = torch.arange(40) % 4 != 0
    map_L2, kind = planar_map(W_LD, living_L)
    assert kind == "UMAP"
    assert (asked["metric"], asked["random_state"]) == ("cosine", 0)
    unit = W_LD[living_L] / W_LD[living_L].norm(dim=1, keepdim=True)
    np.testing.assert_allclose(asked["rows"], unit.numpy(), rtol=1e-5)
    torch.testing.assert_close(map_L2[living_L], unit[:, :2])
    assert map_L2[~living_L].isnan().all()


def test_too_few_latents_have_no_map() -> None:
    map_L2, kind = planar_map(torch.randn(5, 3), torch.tensor([True, True, False, False, False]))
    assert kind == "none"
    assert map_L2.isnan().all()
