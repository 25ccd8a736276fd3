"""Test that no SAE can have an address of the program."""

from __future__ import annotations

import pytest

from app.main import _MODULES
from sae.errors import UserError
from sae.workspace.paths import Workspace, check_name

FIRST = {route.path.split("/")[1] for module in _MODULES for route in module.router.routes}  # type: ignore[attr-defined]
PAGES = [*sorted(first for first in FIRST if first and "{" not in first), "static", "openapi.json", "favicon.ico"]


@pytest.mark.parametrize("page", PAGES)
def test_no_model_is_named_like_a_page(page: str, workspace: Workspace) -> None:
    for name in (page, page.upper()):
        with pytest.raises(UserError, match=f"model: '{name}' is taken by a page of the program; choose another"):
            check_name(name, "model")
        with pytest.raises(UserError, match="model: "):
            workspace.sae(f"{name}/mine")


def test_the_pages_were_found() -> None:
    assert {"steer", "inspect.json", "lists", "index.json", "admin"} <= set(PAGES)
