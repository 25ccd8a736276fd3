"""Tests of `saescope check` on tiny random models."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae.cli.main import app
from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.conformance import opening
from sae.lm.conformance.report import Report, Row
from sae.lm.conformance.tiny_models import write_tiny_model
from sae.workspace.paths import Workspace

LLAMA = "LlamaForCausalLM"


@pytest.fixture(autouse=True)
def _home(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))
    monkeypatch.setenv("COLUMNS", "200")


def tiny(folder: Path, architecture: str = LLAMA) -> str:
    write_tiny_model(architecture, folder / "tiny")
    return str(folder / "tiny")


def test_the_table_says_what_holds_and_is_kept(tmp_path: Path, workspace: Workspace) -> None:
    done = CliRunner().invoke(app, ["check", tiny(tmp_path), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert f"tiny ({LLAMA})" in done.output
    [path] = (workspace.root / "conformance").glob("*.json")
    report = Report.load(path)
    assert report is not None
    rows = [line for line in done.output.splitlines() if " holds " in line]
    assert len(rows) == len(report.rows) > 5
    for row in report.rows:
        assert any(row.subject in line for line in rows), row


def test_a_model_is_checked_once_or_again_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def counted(lm: LanguageModel) -> Report:
        checked.append(lm.info.name)
        return Report(lm.info.name, LLAMA, [Row("logits", "holds"), Row("hook_mlp_out", "refused", "it is too warm")])

    monkeypatch.setattr(opening, "check", counted)
    model = tiny(tmp_path)
    for options, times in (([], 1), ([], 1), (["--again"], 2)):
        done = CliRunner().invoke(app, ["check", model, "--device", "cpu", *options])
        assert done.exit_code == 0, done.output
        assert len(checked) == times
        [line] = [line for line in done.output.splitlines() if "hook_mlp_out" in line]
        assert "refused" in line
        assert "it is too warm" in line


def test_a_model_that_is_refused_as_a_whole_is_an_error_after_its_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", tiny(tmp_path, "BertLMHeadModel"), "--device", "cpu"])
    assert isinstance(done.exception, UserError)
    assert done.exception.field == "model"
    assert "no causal language model" in str(done.exception)
    assert "BertLMHeadModel" in done.output


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(tmp_path / "none"), "--device", "cpu"])
    assert isinstance(done.exception, UserError)
    assert done.exception.field == "model"
