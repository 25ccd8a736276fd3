"""Tests of the search on a list's page: what it finds is added, and the search stays."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from app.library import labels, lists
from tests.unit.app.conftest import BATCH, TOP
from tests.unit.app.pages.html import page, text_of


def test_found_latents_are_added_and_the_search_stays(editor: TestClient, browsable: TestClient) -> None:
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, BATCH, 7, "ada", text="a loop")
        labels.save(db, TOP, 9, "ada", note="no loop")
        place = f"/lists/{lists.create(db, 'eve', 'loops').id}"
    assert "Search for some below" in text_of(page(editor, place))
    html = page(editor, f"{place}?q=loop")
    found = re.findall(r'name="sae" value="([^"]+)"><input type="hidden" name="latent" value="(\d+)"><input', html)
    assert found[:2] == [(BATCH, "7"), (TOP, "9")]
    added = editor.post(f"{place}/latents", data={"sae": BATCH, "latent": "7", "q": "loop", "within": BATCH})
    assert added.headers["location"] == f"{place}?q=loop&within={BATCH.replace('/', '%2F')}#add"
    html = page(editor, added.headers["location"])
    assert "in this list" in text_of(html)
    assert f'<option value="{BATCH}" selected>' in html
    part = editor.get(f"{place}?q=33&within={TOP}", headers={"HX-Request": "true"}).text
    assert "its number" in text_of(part)
    assert "<html" not in part
    assert "No latent fits" in text_of(page(editor, f"{place}?q=zzzznowhere"))


def test_readers_see_no_search(browsable: TestClient) -> None:
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        place = f"/lists/{lists.create(db, 'eve', 'loops').id}"
    assert 'id="add"' not in page(browsable, f"{place}?q=loop")
