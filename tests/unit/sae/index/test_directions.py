"""The map of directions: principal components, or UMAP."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from sae.errors import UserError
from sae.index.directions import planar_map
from sae.runs import create
from sae.workspace.paths import Workspace


def _two_bundles(n: int) -> torch.Tensor:
    """Return 2n rows around two orthogonal directions, of lengths that a map by cosine must ignore."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2 * n, 16, generator=generator) * 0.1
    rows[:n, 0] += 1
    rows[n:, 1] += 1
    return rows * (0.5 + torch.rand(2 * n, 1, generator=generator))


@pytest.mark.parametrize(("asked", "made"), [("pca", "PCA"), pytest.param("umap", "UMAP", marks=pytest.mark.heavy)])
def test_map_keeps_bundles_of_directions_apart(asked: str, made: str) -> None:
    n = 40
    alive_L = torch.ones(2 * n, dtype=torch.bool)
    alive_L[[3, n + 5]] = False
    map_L2, kind = planar_map(_two_bundles(n), alive_L, asked)  # type: ignore[arg-type]
    assert kind == made
    assert map_L2[~alive_L].isnan().all()
    first, second = map_L2[:n][alive_L[:n]], map_L2[n:][alive_L[n:]]
    across = torch.cdist(first, second).min()
    assert across > torch.cdist(first, first).quantile(0.5)
    assert across > torch.cdist(second, second).quantile(0.5)


def test_pca_map_is_that_of_the_dense_decomposition() -> None:
    W_LD = _two_bundles(20)
    map_L2, _ = planar_map(W_LD, torch.ones(40, dtype=torch.bool))
    unit = normalize(W_LD, dim=1)
    _, _, V = torch.linalg.svd(unit - unit.mean(dim=0), full_matrices=False)
    expected = (unit - unit.mean(dim=0)) @ V[:2].T
    torch.testing.assert_close(map_L2.abs(), expected.abs(), atol=1e-4, rtol=1e-3)


def test_too_few_latents_have_no_map() -> None:
    map_L2, kind = planar_map(torch.randn(5, 3), torch.tensor([True, True, False, False, False]))
    assert kind == "none"
    assert map_L2.isnan().all()


def test_umap_is_refused_at_once_where_it_is_not_installed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="saescope\\[umap\\]") as caught:
        create.start("index", {"sae": "demo/any", "map": "umap"}, workspace)
    assert caught.value.field == "map"
