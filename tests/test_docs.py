"""Tests of the documents: what they promise exists, and every setting and command is documented."""

from __future__ import annotations

import re

import pytest
from pydantic import AliasChoices
from typer.main import get_command

from app.cli import app
from app.settings import Settings
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "sae/demo/model/README.md",
    *(f"docs/decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))))


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \| ([^|]*) \|", README, re.MULTILINE)}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = str(alias.choices[0] if isinstance(alias, AliasChoices) else alias or f"SAESCOPE_{name.upper()}")
        assert variable in rows, f"{variable} is not in README.md"
        if isinstance(field.default, bool | int | float):
            assert rows[variable].strip("`") == str(field.default).lower()


def test_the_readme_names_every_command_and_no_other() -> None:
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009  (typer's own type does not say so)
    assert set(re.findall(r"^\| `saescope ([\w-]+)", README, re.MULTILINE)) == commands


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{document} links to {target}"


def test_the_files_that_the_architecture_maps_are_there() -> None:
    """Check every `path/name.py` that ARCHITECTURE.md mentions in running text."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"`((?:sae|app|tests)/[\w/]+\.py)`", text))
    assert len(mentioned) > 5
    assert [name for name in sorted(mentioned) if not (ROOT / name).exists()] == []


def test_every_direct_dependency_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    wanted = re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?(?:[<>=,.\d]*)"', project.partition("dependencies = [")[2])
    assert {name.lower().replace("_", "-") for name in wanted} <= pinned
    assert "torch==2.13.0\n" in (ROOT / "constraints.txt").read_text()
