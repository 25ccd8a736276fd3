"""Names that are safe in a path and an address, and the contents of a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import UserError
from sae.workspace.paths import RESERVED, Workspace, check_name, new_id, slug, typed_path


@given(st.text())
def test_a_slug_is_a_usable_name(text: str) -> None:
    name = slug(text)
    assert name
    if name not in RESERVED and not name.endswith(".json"):
        assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "-x", ".hidden", "a" * 81, "a b", "é", "x\n", "admin",
                                  "API", "lists.json", "index", "Mine.JSON"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError) as refused:
        check_name(name, "model")
    assert refused.value.field == "model"


@given(st.text())
def test_no_sae_id_leaves_the_workspace(text: str) -> None:
    workspace = Workspace(Path("/home/w"))
    try:
        path = workspace.sae(text)
    except UserError:
        return
    assert path.resolve().is_relative_to("/home/w/saes")


def test_only_finished_saes_and_builds_are_listed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for sae in ("demo/b", "demo/a", "gpt2/a"):
        workspace.sae(sae).mkdir(parents=True)
    for sae in ("demo/b", "gpt2/a"):
        (workspace.sae(sae) / "sae.json").write_text("{}")
    workspace.builds("demo/b").mkdir(parents=True)
    for name in ("20260102-0-a.duckdb", "20260101-0-a.duckdb", "20260103-0-a.duckdb.77.tmp"):
        (workspace.builds("demo/b") / name).touch()
    assert workspace.sae_ids() == ["demo/b", "gpt2/a"]
    assert workspace.build_ids("demo/b") == ["20260101-0-a", "20260102-0-a"]


def test_ids_are_names() -> None:
    assert check_name(new_id("train")).startswith("train-")


def test_ids_made_in_the_same_second_differ() -> None:
    assert len({new_id("steer") for _ in range(2000)}) == 2000


@pytest.mark.parametrize("text", ["a" * 300, "/" + "b" * 5000, "a\0b", "~nobody-of-this-name/x", "\ud800"])
def test_what_no_file_can_be_called_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        typed_path(text, "source")
    assert caught.value.field == "source"
    assert len(str(caught.value)) < 200


def test_a_typed_path_need_not_exist(tmp_path: Path) -> None:
    assert typed_path(str(tmp_path / "none"), "source") == tmp_path / "none"
    assert typed_path("~", "source") == Path.home()
