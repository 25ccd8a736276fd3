"""Tests of `saescope steer` on a tiny SAE."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sae.cli.steer import _shown, steer_command
from sae.errors import UserError
from sae.workspace.paths import Workspace
from tests.builds import make_build

SAE = "demo/2-tiny"


@pytest.fixture
def run(workspace: Workspace, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    tiny_sae(folder=workspace.sae(SAE), n_latents=60)
    workspace.builds(SAE).mkdir(parents=True)
    make_build(workspace.build(SAE, "build-1"), sae_id=SAE, n_latents=60)
    monkeypatch.setenv("SAESCOPE_HOME", str(workspace.root))
    app = typer.Typer()
    app.command()(steer_command)

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--sae", SAE, "--prompt", "def main(", "--length", "6", *arguments])

    return invoke


def test_both_texts_are_printed(run: Any) -> None:
    result = run("--latent", "2", "--strength", "0", "--temperature", "0")
    assert result.exit_code == 0, result.output
    assert "baseline" in result.output
    assert "steered" in result.output
    assert "latent 2: add 0 × max" in result.output
    row = next(line for line in result.output.splitlines() if "def main(" in line)
    left, right = (cell.strip() for cell in row.strip("│ ").split("│"))
    assert left == right


def test_a_text_cannot_act_on_the_terminal() -> None:
    assert _shown(b" two\tw\xc3\xb6rds\n\x1b[31m\x00\xff") == " two\twörds\n�[31m��"


@pytest.mark.parametrize(("arguments", "field"), [
    (("--latent", "60"), "latent"),
    (("--latent", "7"), "latent"),  # dead in the build
    (("--latent", "2", "--strength", "1e9"), "interventions.0.strength"),
    (("--latent", "2", "--mode", "erase"), "interventions.0.mode"),
    (("--latent", "2", "--latent", "3", "--latent", "4", "--strength", "1", "--strength", "2"), "strength"),
    (("--latent", "2", "--length", "300"), "length"),
])
def test_faults_name_their_field(run: Any, arguments: tuple[str, ...], field: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UserError)
    assert result.exception.field == field
