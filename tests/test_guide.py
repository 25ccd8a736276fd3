"""Every command of the guide is one that the program understands, and the shorter ones are carried out."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click
import pytest
from typer.main import get_command

from app.cli import app
from app.pages.system.guide import chapters
from app.settings import Settings
from sae.specs.registry import SPECS
from tests import ROOT

COMMANDS = get_command(app)
LINES = [(name, line) for name, document in chapters().items() for line in document.commands]
VARIABLES = {"HOST", "PORT"} | {f"SAESCOPE_{name.upper()}" for name in Settings.model_fields}


def words_of(line: str) -> list[str]:
    """Split a command, without the variables before it, which must be settings."""
    words = shlex.split(line)
    while "=" in words[0]:
        assert words.pop(0).partition("=")[0] in VARIABLES, line
    return words


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command and its values, as the command line itself reads them."""
    command, rest = COMMANDS, words
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[union-attr]
    if command.name == "create-admin":
        rest = [*rest, "--name", "ada", "--password", "correct horse"]  # it would ask
    return str(command.name), command.make_context(str(command.name), list(rest)).params


@pytest.mark.parametrize(("chapter", "line"), LINES, ids=[f"{name}: {line[:60]}" for name, line in LINES])
def test_a_command_of_the_guide_is_understood(chapter: str, line: str) -> None:
    words = words_of(line)
    if words[0] == "saescope":
        kind, values = parsed(words[1:])
        if kind in SPECS:
            SPECS[kind](**{name: value for name, value in values.items() if value is not None})
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["python", "-m"]:
        source = (ROOT / (words[2].replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert all(f'"{option}"' in source for option in words if option.startswith("--"))
    elif words[:2] == ["pip", "install"]:
        (extra,) = re.findall(r"saescope\[(\w+)\]", line)
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    elif words[0] == "curl":
        assert re.search(r"http://127\.0\.0\.1:8000/demo/2-res-batchtopk-4k/latents\.(csv|parquet)\?", line)
    elif words[0] == "torchrun":
        assert words[-4:-1] == ["-m", "sae", "run"]
    else:
        assert words[0] in ("docker", "tensorboard"), line


def test_python_code_of_the_guide_is_python() -> None:
    for path in (ROOT / "docs" / "guide").glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            compile(block, path.name, "exec")
