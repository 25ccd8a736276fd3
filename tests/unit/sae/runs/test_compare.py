"""Pairs of SAEs that cannot be compared are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.runs.compare import run_compare
from sae.runs.folder import RunFolder
from sae.runs.progress import Reporter
from sae.specs.registry import CompareSpec
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import sae_config


@pytest.mark.parametrize(("changes", "text"), [
    ({"model": {"name": "other", "id": "other"}}, "belongs to another language model"),
    ({"bos": {"prepended": False, "trained_on": False}}, "begin with BOS"),
    ({"d_model": 128}, "a space of width 128"),
])
def test_a_pair_that_cannot_be_compared_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    workspace = Workspace(tmp_path)
    write_json(workspace.sae("demo/a") / "sae.json", sae_config("demo/a"))
    write_json(workspace.sae("demo/b") / "sae.json", sae_config("demo/b", **changes))
    folder = RunFolder(workspace.run("compare-1"))
    folder.create("compare", {"a": "demo/b", "b": "demo/a"})
    with pytest.raises(UserError, match=text) as caught:
        run_compare(CompareSpec(a="demo/b", b="demo/a"), folder, workspace, Reporter(folder, {}))
    assert caught.value.field == "b"
