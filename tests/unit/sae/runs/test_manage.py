"""Deleting and renaming SAEs: nothing is left behind, nothing else is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.runs.manage import comparisons_of, delete_sae_files, files_of, rename_sae_files, still_there
from sae.store.comparison import Comparison, comparison_path, write_comparison
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace

ONE, OTHER, THIRD = "demo/one", "demo/other", "gpt2/one"


@pytest.fixture
def full(workspace: Workspace) -> Workspace:
    """Make a workspace with three SAEs, a build of each, and comparisons."""
    for sae_id in (ONE, OTHER, THIRD):
        write_json(workspace.sae(sae_id) / "sae.json", {"schema_version": 1, "id": sae_id, "run": "r"})
        (workspace.sae(sae_id) / "sae.safetensors").write_bytes(bytes(100))
        workspace.builds(sae_id).mkdir(parents=True)
        workspace.build(sae_id, "b1").write_bytes(bytes(50))
        workspace.build(sae_id, "b1").with_suffix(".arrow").write_bytes(bytes(7))
    rows = pa.table({"side": pa.array([0], pa.uint8()), "latent": pa.array([0], pa.int32()), "fires": [1],
                     "others": [[1]], "cosines": [[0.5]], "mate": pa.array([1], pa.int32()), "phi": [0.1]})
    write_comparison(comparison_path(workspace, ONE, OTHER), {"a": ONE, "b": OTHER}, rows)
    write_comparison(comparison_path(workspace, OTHER, THIRD), {"a": OTHER, "b": THIRD}, rows)
    return workspace


def _files(workspace: Workspace) -> set[str]:
    return {path.relative_to(workspace.root).as_posix() for path in workspace.root.rglob("*")
            if path.name != ".lock"}


def test_what_belongs_to_an_sae_is_counted(full: Workspace) -> None:
    files = files_of(full, ONE)
    assert (files.builds, files.comparisons) == (1, 1)
    assert files.n_bytes > 157
    assert [pair for _, *pair in comparisons_of(full, OTHER)] == [[ONE, OTHER], [OTHER, THIRD]]


def test_nothing_of_a_deleted_sae_is_left(full: Workspace) -> None:
    (full.root / "trash" / "of-an-earlier-crash").mkdir(parents=True)
    before = _files(full)
    delete_sae_files(full, ONE)
    gone = before - _files(full)
    assert {path for path in gone if "trash" not in path} == {
        "saes/demo/one", "saes/demo/one/sae.json", "saes/demo/one/sae.safetensors", "builds/demo/one",
        "builds/demo/one/b1.duckdb", "builds/demo/one/b1.arrow", "comparisons/demo/one~demo~other.duckdb"}
    assert not (full.root / "trash").exists()
    delete_sae_files(full, THIRD)
    assert not [path for path in _files(full) if "gpt2" in path]


def test_a_renamed_sae_keeps_everything(full: Workspace) -> None:
    assert rename_sae_files(full, OTHER, "best") == "demo/best"
    assert full.sae_ids() == ["demo/best", ONE, THIRD]
    assert full.build_ids("demo/best") == ["b1"]
    assert json.loads((full.sae("demo/best") / "sae.json").read_text())["id"] == "demo/best"
    assert not [path for path in _files(full) if "other" in path]
    for a, b, side in ((ONE, "demo/best", 1), ("demo/best", THIRD, 0)):
        comparison = Comparison.open(comparison_path(full, a, b))
        assert comparison.side_of("demo/best") == side
        comparison.close()


def test_an_interrupted_renaming_is_completed(full: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def dies(source: Path, target: Path) -> None:
        if source == full.sae(ONE):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        rename_sae_files(full, ONE, "best")
    monkeypatch.undo()
    rename_sae_files(full, ONE, "best")
    assert (full.sae_ids(), full.build_ids("demo/best")) == ([ "demo/best", OTHER, THIRD], ["b1"])


@pytest.mark.parametrize("name", ["", "..", "a/b", "other", "one", "admin", "-x", "x" * 81, "a b", "claimed"])
def test_unusable_names_are_refused(full: Workspace, name: str) -> None:
    run = RunFolder(full.run("train-1"))
    run.create("train", {})
    write_json(full.sae("demo/claimed") / "claim.json", {"run": run.id, "folder": str(run.path)})
    before = _files(full)
    with pytest.raises(UserError) as caught:
        rename_sae_files(full, ONE, name)
    assert caught.value.field == "name"
    assert _files(full) == before


@pytest.mark.parametrize("sae_id", ["demo/none", "../x", "demo", "demo/one/x"])
def test_an_unknown_sae_is_refused(full: Workspace, sae_id: str) -> None:
    before = _files(full)
    for act in (lambda: delete_sae_files(full, sae_id), lambda: rename_sae_files(full, sae_id, "x")):
        with pytest.raises(UserError):
            act()
    assert _files(full) == before


def test_a_build_that_was_finished_after_its_sae_was_deleted_goes_too(full: Workspace) -> None:
    path = full.build(ONE, "b2")
    guarded = still_there(full, ONE, path)
    guarded.__enter__()
    delete_sae_files(full, ONE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="deleted or renamed"):
        guarded.__exit__(None, None, None)
    assert not [name for name in _files(full) if name.startswith(("builds/demo/one", "saes/demo/one"))]
    with still_there(full, OTHER, full.build(OTHER, "b1")):
        pass
    assert full.build_ids(OTHER) == ["b1"]
