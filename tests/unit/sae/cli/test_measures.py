"""Tests of `saescope saebench`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sae.cli.main import app
from sae.cli.measures import measure_table
from sae.errors import UserError
from sae.evaluation.published import read_published
from sae.evaluation.results import Anchor, StoredResult, StoredValue, write_result
from sae.workspace.paths import Workspace
from tests.unit.conftest import TinySae
from tests.unit.sae.evaluation.test_saebench import core, theirs


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["saebench", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_results_go_out_and_in(
    workspace: Workspace, tiny_sae: TinySae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))
    monkeypatch.chdir(tmp_path)
    name = tiny_sae().config["id"]
    tiny_sae(folder=workspace.sae(name))
    with pytest.raises(UserError, match="was not measured"):
        run("export", "--sae", name)
    write_result(workspace.sae(name), core(l0=4.0))
    path = Path(run("export", "--sae", name))
    assert path.name == f"{name.replace('/', '_')}_eval_results.json"
    assert json.loads(path.read_text())["sae_cfg_dict"]["d_sae"] == 48
    other = tmp_path / "other.json"
    other.write_text(json.dumps(theirs()))
    assert run("import", str(path), str(other)).splitlines()[1].startswith("pythia-70m: release/blocks.3/x (core, 9")
    assert [one.values["l0"] for one in read_published(workspace, "demo")] == [4.0]
    other.write_text("{}")
    with pytest.raises(UserError, match=r"other\.json is no result"):
        run("import", str(other))


def test_a_table_has_intervals_and_anchors() -> None:
    result = StoredResult("core", (StoredValue("fvu", 0.13113, 0.1288, 0.1335), StoredValue("none", None)),
                          anchors=(Anchor("random dictionary", (StoredValue("fvu", 0.6),)),))
    console = Console(width=100, file=io.StringIO())
    console.print(measure_table(result))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("0.1311", "0.1288 to 0.1335", "random dictionary", "0.6", "–"):
        assert words in said
