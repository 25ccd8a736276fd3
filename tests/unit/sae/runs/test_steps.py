"""Steps that runs share: which text is read, and one build for each run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.runs.progress import Reporter
from sae.runs.steps import build_index, open_model_and_text, text_of, text_tokens_of
from sae.specs.training import IndexSettings
from sae.workspace.paths import Workspace
from tests.unit.sae.runs.conftest import STOCKED

TRAINED = {"training": {"text": "wiki", "text_column": "body", "text_split": "test", "text_tokens": 500}}
IMPORTED = {"training": {}, "imported": {"text": "web", "text_column": "text", "text_split": "train"}}


@pytest.fixture
def folder(workspace: Workspace) -> RunFolder:
    made = RunFolder(workspace.run("index-20260101-abc"))
    made.create("index", {"sae": STOCKED})
    return made


def test_the_text_is_the_one_that_the_sae_was_trained_on_unless_another_is_named() -> None:
    assert text_of(TRAINED, "", "text", "train") == ("wiki", "body", "test")
    assert text_of(IMPORTED, "", "x", "y") == ("web", "text", "train")
    assert text_of(TRAINED, "mine", "x", "y") == ("mine", "x", "y")


def test_the_length_of_the_training_counts_for_its_text_alone() -> None:
    assert text_tokens_of(TRAINED) == 500
    assert text_tokens_of(TRAINED, text_tokens=9) == 9
    assert text_tokens_of(TRAINED, "mine") == 0
    assert text_tokens_of(IMPORTED) == 0


def test_a_hook_that_the_model_lacks_is_refused_before_the_text_is_read(
    workspace: Workspace, folder: RunFolder, tmp_path: Path
) -> None:
    reporter = Reporter(folder, {"text": 1.0})
    with pytest.raises(UserError) as error:
        open_model_and_text("demo", "cpu", str(tmp_path / "no text"), "text", "train", 32, workspace, reporter,
                            ["blocks.99.hook_resid_post"])
    assert error.value.field == "site"
    assert "no text" not in str(error.value)
    assert reporter.status.phase == "text"


def test_a_run_makes_its_build_once(
    stocked: Workspace, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def build(lm: Any, sae: Any, corpus: Any, settings: Any, path: Path, **rest: Any) -> None:
        made.append(rest)
        rest["update"](100, 1000)
        path.touch()

    monkeypatch.setattr("sae.index.build.build", build)
    reporter = Reporter(folder, {"index": 1.0})
    sae: Any = SimpleNamespace(config={"id": STOCKED})
    nothing: Any = None
    for _ in range(2):
        found = build_index(IndexSettings(index_tokens=1000), sae, nothing, nothing, folder, stocked, reporter, 1, 3)
        assert found == "20260101-abc"
    [rest] = made
    assert rest["checkpoint"] == folder.checkpoints / "index-1.pt"
    assert rest["provenance"]["run"] == folder.id
    assert f"--sae {STOCKED}" in rest["provenance"]["command"]
    assert (reporter.status.phase, reporter.status.done, reporter.status.total) == ("index", 1100, 3000)
    assert build_index(IndexSettings(), sae, nothing, nothing, folder, stocked, reporter, run="sweep-7-a") == "7-a"
    assert made[1]["provenance"]["run"] == "sweep-7-a", "a part names its parent"


def test_a_build_of_an_sae_that_was_deleted_meanwhile_goes_with_it(
    stocked: Workspace, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(lm: Any, sae: Any, corpus: Any, settings: Any, path: Path, **rest: Any) -> None:
        path.touch()
        (stocked.sae(STOCKED) / "sae.json").unlink()

    monkeypatch.setattr("sae.index.build.build", build)
    sae: Any = SimpleNamespace(config={"id": STOCKED})
    nothing: Any = None
    with pytest.raises(UserError, match="was deleted or renamed") as error:
        build_index(IndexSettings(), sae, nothing, nothing, folder, stocked, Reporter(folder, {"index": 1.0}))
    assert error.value.field == "sae"
    assert not stocked.build(STOCKED, "20260101-abc").exists()
