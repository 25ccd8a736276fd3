"""Tests of what all pages of an SAE share: addresses of nothing, missing and damaged builds."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.html import links, page


@pytest.mark.parametrize("number", ["160", "999999999999999999999", "-1", "abc", "1.5", "٣"])
def test_numbers_that_are_no_latent(browsable: TestClient, number: str) -> None:
    html = page(browsable, f"/{BATCH}/{number}", 404)
    assert "160 latents, 0 to 159" in html
    assert browsable.get(f"/{BATCH}/{number}.json").json()["status"] == 404


def test_unknown_saes(browsable: TestClient) -> None:
    html = page(browsable, "/demo/nothing", 404)
    assert {f"/{BATCH}", f"/{TOP}", "/demo", "/"} <= set(links(html))
    assert browsable.get("/demo/nothing.json").json()["nearest"][-1] == "/demo"
    assert set(links(page(browsable, "/nobody/nothing/3", 404))) == {"/"}


def test_an_sae_without_an_index_offers_administrators_to_build_it(
    admin: TestClient, client: TestClient, workspace: Workspace
) -> None:
    write_sae(workspace, BATCH)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    address = f"/admin/index?sae={BATCH.replace('/', '%2F')}"
    assert address in links(page(admin, f"/{BATCH}/latents", 404))
    assert f'href="/admin/index?sae={BATCH}"' in page(admin, f"/{BATCH}").replace("%2F", "/")
    client.cookies.clear()
    assert address not in page(client, f"/{BATCH}/latents", 404)


def test_a_build_that_was_deleted_is_no_crash(browsable: TestClient, workspace: Workspace) -> None:
    path: Path = workspace.build(BATCH, "index-1")
    path.unlink()
    assert "no longer exists" in page(browsable, f"/{BATCH}/4", 404)
    page(browsable, "/")
    page(browsable, f"/{TOP}/tokens")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_build_is_told_on_its_own_pages(browsable: TestClient, workspace: Workspace, share: float) -> None:
    path = workspace.build(BATCH, "index-1")
    os.truncate(path, int(path.stat().st_size * share))
    for address in (f"/{BATCH}", f"/{BATCH}/latents", f"/{BATCH}/4", f"/{BATCH}/tokens"):
        said = page(browsable, address, 503)
        assert re.search("index-1.duckdb is damaged: it (has .* of its .* bytes|is not a DuckDB file)", said)
        assert f"saescope index --sae {BATCH}" in said
        assert str(workspace.root) not in said  # where our files lie is nobody's business
    for address in ("/", f"/{TOP}/4", f"/{TOP}/tokens?with={BATCH}", "/search?q=return"):
        page(browsable, address)
