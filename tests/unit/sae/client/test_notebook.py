"""The notebook of the guide, executed against a running server, cell by cell."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest

from tests import ROOT
from tests.unit.sae.client.conftest import Served

NOTEBOOK = ROOT / "docs" / "guide" / "notebook.ipynb"


def test_every_cell_of_the_notebook_runs(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_URL", served.url)
    monkeypatch.setenv("SAESCOPE_TOKEN", served.token)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "the notebook is stored without outputs"
        body = ast.parse(cell["source"]).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names))
    assert len(shown) == 9
    assert all(value is not None and len(value) if isinstance(value, list | str) else True for value in shown)
    assert sum("<" in one._repr_html_() for one in shown if hasattr(one, "_repr_html_")) >= 6
    names["client"].close()
