"""Tests of the command `saescope reproduce`: what it hands on, and where the report goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sae.cli.main import app
from sae.errors import UserError
from sae.reproduce import run
from sae.workspace.paths import Workspace


def test_the_options_reach_the_grid_and_the_report_says_its_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))
    seen: dict[str, Any] = {}

    def reproduce(name: str, values: dict[str, Any], home: Workspace, folder: Path, say: Any, command: str, *,
                  quick: bool) -> tuple[Path, Path]:
        seen.update(name=name, values=values, folder=folder, command=command, quick=quick)
        return folder / "batchtopk.html", folder / "batchtopk.json"

    monkeypatch.setattr(run, "reproduce", reproduce)
    done = CliRunner().invoke(app, ["reproduce", "batchtopk", "--sizes", "64,128", "--seeds", "2", "--quick"])
    assert done.exit_code == 0, done.output
    assert seen["values"] == {"sizes": "64,128", "seeds": 2}
    assert seen["command"] == "saescope reproduce batchtopk --quick --sizes 64,128 --seeds 2"
    assert seen["folder"] == workspace.root / "reproduce" / "batchtopk-quick"
    assert seen["quick"] is True
    assert "batchtopk.html" in done.output


def test_an_unknown_paper_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))
    with pytest.raises(UserError, match="paper: 'vaswani' is not one of batchtopk, topk-scaling"):
        CliRunner().invoke(app, ["reproduce", "vaswani"], catch_exceptions=False)
