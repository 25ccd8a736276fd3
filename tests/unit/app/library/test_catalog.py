"""Tests of the catalog: the table agrees with the folders after every change to them."""

from __future__ import annotations

import shutil

from app.library.catalog import Catalog
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae


def _build(workspace: Workspace, sae_id: str, build: str) -> None:
    path = workspace.build(sae_id, build)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_saes_and_their_newest_build(catalog: Catalog, workspace: Workspace) -> None:
    write_sae(workspace, "demo/one", created=1.0)
    write_sae(workspace, "demo/two", created=2.0, k=None, architecture="relu")
    _build(workspace, "demo/one", "20260101-000000-aaaa")
    _build(workspace, "demo/one", "20260102-000000-0000")
    catalog.sync()
    assert [(sae.id, sae.current_build, sae.k) for sae in catalog.list_saes()] == [
        ("demo/two", None, None), ("demo/one", "20260102-000000-0000", 32)]
    one = catalog.get_sae("demo/one")
    assert one is not None
    assert (one.model, one.name, one.layer, one.hook) == ("demo", "one", 2, "blocks.2.hook_resid_post")


def test_changes_and_deletions_are_followed(catalog: Catalog, workspace: Workspace) -> None:
    write_sae(workspace, "demo/one")
    assert catalog.sync_if_changed()
    assert not catalog.sync_if_changed()
    _build(workspace, "demo/one", "b-1")
    assert catalog.sync_if_changed()
    write_sae(workspace, "demo/one", k=64)
    assert catalog.sync_if_changed()
    one = catalog.get_sae("demo/one")
    assert one is not None
    assert (one.current_build, one.k) == ("b-1", 64)
    shutil.rmtree(workspace.sae("demo/one"))
    assert catalog.sync_if_changed()
    assert catalog.list_saes() == []


def test_a_damaged_sae_is_passed_over(catalog: Catalog, workspace: Workspace) -> None:
    write_sae(workspace, "demo/good")
    for name, text in (("torn", "{"), ("list", "[]"), ("empty", "{}")):
        folder = workspace.sae(f"demo/{name}")
        folder.mkdir(parents=True)
        (folder / "sae.json").write_text(text)
    stray = workspace.root / "saes" / "de mo" / "x y"
    stray.mkdir(parents=True)
    (stray / "sae.json").write_text("{}")
    catalog.sync()
    assert [sae.id for sae in catalog.list_saes()] == ["demo/good"]
