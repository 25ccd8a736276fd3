"""Tests of the checks of a run before it is queued."""

from __future__ import annotations

from typing import Any

import pytest

from app.library.catalog import Catalog
from app.pages.runs import spec_check
from app.pages.runs.spec_check import check_spec
from sae.errors import UserError
from sae.specs.registry import TrainSpec
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae


@pytest.fixture
def saes(catalog: Catalog, workspace: Workspace) -> Catalog:
    write_sae(workspace, "demo/one")
    write_sae(workspace, "demo/board", weights="none", imported={"format": "x", "source": "y"})
    catalog.sync()
    return catalog


@pytest.mark.parametrize(("kind", "values", "field", "words"), [
    ("train", {"layer": 77}, "layer", "0 to"), ("train", {"name": "one"}, "name", "already"),
    ("train", {"name": "a/b"}, "name", "not a usable name"), ("train", {"k": 0}, "k", "1 or more"),
    ("train", {"model": "/nowhere/at/all"}, "model", "not a directory"), ("sweep", {"layer": 77}, "layer", "0 to"),
    ("train", {"text": "/nowhere.txt"}, "text", "is not a file"),
    ("index", {"sae": "demo/none"}, "sae", "there are: demo/"),
    ("evaluate", {"sae": "demo/board"}, "sae", "without weights"),
    ("evaluate", {"sae": "demo/one", "labels": "/nowhere.csv"}, "labels", "no file /nowhere.csv"),
    ("evaluate", {"sae": "demo/one", "labels": "/"}, "labels", "has no probing_datasets_MASTER.csv.zst"),
    ("compare", {"a": "demo/one", "b": "demo/none"}, "b", "no SAE demo/none")])
def test_a_mistake_is_refused_at_its_field(
    saes: Catalog, kind: str, values: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_spec(kind, values, saes)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_what_is_right_passes(saes: Catalog) -> None:
    assert check_spec("train", {"k": 3, "name": "new"}, saes) == TrainSpec(k=3, name="new")
    assert check_spec("sweep", {"name": "one"}, saes).name == "one", "its SAEs get longer names"  # type: ignore[union-attr]


def test_umap_that_is_not_installed_is_refused(saes: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_check, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="UMAP is not installed"):
        check_spec("index", {"sae": "demo/one", "map": "umap"}, saes)
    assert check_spec("index", {"sae": "demo/one", "map": "pca"}, saes).sae == "demo/one"  # type: ignore[union-attr]
