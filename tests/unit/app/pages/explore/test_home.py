"""Tests of the home page: what it says, and what it offers to whom."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.html import page


def test_home_shows_the_saes(browsable: TestClient) -> None:
    html = page(browsable, "/")
    assert f'href="/{BATCH}"' in html
    assert f'href="/{TOP}"' in html
    assert "0.184" in html
    assert "trained on 1.5 M tokens" in html
    assert "fraction of variance unexplained" in html, "figures say what they are"
    assert 'class="sparkline"' in html


def test_home_says_what_the_program_does_and_leads_into_it(browsable: TestClient) -> None:
    html = page(browsable, "/")
    assert "Browse what the latents of a sparse autoencoder (SAE) react to" in html
    for door in (rf'class="card door" href="/{BATCH}/\d+"', f'class="card door" href="/steer[?]sae={BATCH}"',
                 f'class="card door" href="/inspect[?]sae={BATCH}"'):
        found = re.search(door, html.replace("%2F", "/"))
        assert found, door
        assert browsable.get(re.findall('href="([^"]+)"', found[0])[0]).status_code == 200


def test_only_administrators_are_offered_to_train(admin: TestClient, browsable: TestClient) -> None:
    assert 'href="/admin/train"' in page(admin, "/")
    assert 'href="/admin/import"' in page(admin, "/")
    browsable.cookies.clear()
    html = page(browsable, "/")
    assert 'href="/admin/train"' not in html
    assert 'href="/login?next=/"' in html


def test_an_empty_workspace_says_what_to_do(client: TestClient, admin: TestClient) -> None:
    html = page(admin, "/")
    assert "Nothing here yet" in html
    assert 'href="/admin/train"' in html
    assert 'href="/admin/import"' in html
    client.cookies.clear()
    html = page(client, "/")
    assert "Nothing here yet" in html
    assert 'href="/login?next=/"' in html
    assert "saescope demo" in html


def test_cards_of_saes_without_an_index_have_no_dead_links(
    admin: TestClient, client: TestClient, workspace: Workspace
) -> None:
    write_sae(workspace, BATCH)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    html = page(admin, "/")
    assert f'href="/admin/index?sae={BATCH}"' in html.replace("%2F", "/")
    client.cookies.clear()
    for shown in (html, page(client, "/")):
        for href in set(re.findall(r'href="(/[^"]*)"', shown)) - {"/admin/train", "/admin/import"}:
            assert client.get(href.replace("&amp;", "&")).status_code in (200, 303), href


def test_an_empty_workspace_with_the_demo_run_tells_its_phases(client: TestClient) -> None:
    from app.main import start_demo

    start_demo(client.app)  # type: ignore[arg-type]
    html = page(client, "/")
    assert "What is happening" in html
    for phase in ("text", "training", "evaluation", "index"):
        assert f"<dt>{phase}</dt>" in html
    assert 'class="card run-card"' in html


def test_runs_home_and_documents_for_programs(browsable: TestClient) -> None:
    home = browsable.get("/index.json").json()
    assert [f"{sae['model']}/{sae['sae']}" for sae in home["saes"]] == [
        f"{sae['model']}/{sae['sae']}" for sae in browsable.get("/api/saes").json()]
    assert browsable.get("/runs.json").json() == browsable.get("/api/runs").json() == []
    assert browsable.get("/runs/none.json").status_code == 404
    assert browsable.get(f"/{BATCH}/9/source/0.json").status_code == 404  # the text is not kept here
    assert sorted(browsable.get("/search.json?q=9").json()["numbers"]) == sorted([f"/{TOP}/9", f"/{BATCH}/9"])
