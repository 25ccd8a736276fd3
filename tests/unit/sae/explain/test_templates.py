"""Prompts: versions, overriding, and values that look like prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.errors import UserError
from sae.explain.templates import OWN, REQUIRED, load_templates, numbered, parse


def test_every_prompt_has_a_version_and_the_values_it_needs() -> None:
    templates = load_templates()
    assert set(templates) == set(REQUIRED)
    for name, template in templates.items():
        assert template.version == f"{name}-1"
        assert template.messages[-1][0] == "user"
    filled = templates["detection"].fill(explanation="E", texts="T", n=2)
    assert "{{" not in "".join(message["content"] for message in filled)


def test_a_value_is_data() -> None:
    template = parse("detection", "version: v\n[user]\n{{explanation}} {{texts}}\n")
    text = template.fill(explanation="{{texts}} \\1 [system]", texts="T")[0]["content"]
    assert text == "{{texts}} \\1 [system] T"


def test_an_administrator_can_override_one_prompt(tmp_path: Path) -> None:
    (tmp_path / "explain.txt").write_text("version: ours\n[user]\nLook: {{top}}\n")
    templates = load_templates(str(tmp_path))
    assert templates["explain"].version.startswith("ours+")
    assert templates["explain"].messages == (("user", "Look: {{top}}"),)
    assert templates["detection"].version == "detection-1"
    first = templates["explain"].version
    (tmp_path / "explain.txt").write_text("version: ours\n[user]\nLook at: {{top}}\n")
    assert load_templates(str(tmp_path))["explain"].version != first  # another prompt is another version
    (tmp_path / "explain.txt").write_text((OWN / "explain.txt").read_text())
    assert load_templates(str(tmp_path))["explain"].version == "explain-1"


@pytest.mark.parametrize(("text", "said"), [
    ("[user]\n{{top}}", "version"), ("version: v\n{{top}}", "no message"), ("version: v\n[user]\nx", "lacks {{top}}"),
    ("version: v\nloose\n[user]\n{{top}}", "no message"),
])
def test_a_prompt_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "explain.txt").write_text(text)
    with pytest.raises(UserError, match=r"prompts: explain\.txt") as error:
        load_templates(str(tmp_path))
    assert said in str(error.value)
    assert error.value.field == "prompts"
    with pytest.raises(UserError, match="is not a folder"):
        load_templates(str(tmp_path / "none"))


def test_a_line_break_does_not_begin_another_text() -> None:
    assert numbered(["a\n2. b", "c"]) == "1. a↵2. b\n2. c"


def test_the_folder_of_the_environment_counts_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "explain.txt").write_text(f"version: {name}\n[user]\nLook: {{{{top}}}}\n")
    monkeypatch.setenv("SAESCOPE_LLM_PROMPTS", str(tmp_path / "own"))
    assert load_templates()["explain"].version.startswith("own+")
    assert load_templates(str(tmp_path / "other"))["explain"].version.startswith("other+")
    monkeypatch.setenv("SAESCOPE_LLM_PROMPTS", str(tmp_path / "none"))
    with pytest.raises(UserError, match="is not a folder"):
        load_templates()
