"""Tests of the pages of lists: made, filled, tested on a text, shared, deleted."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app.pages.lists import pages as lists_pages
from app.worker.protocol import Failed, Queued
from tests.unit.app.conftest import BATCH, TOP
from tests.unit.app.fake_worker import FakeWorker


def worker(client: TestClient) -> FakeWorker:
    found: FakeWorker = client.app.state.worker  # type: ignore[attr-defined]
    return found


@pytest.fixture
def place(editor: TestClient) -> str:
    """Make a list with a latent of each SAE and return its address."""
    made = editor.post("/lists", data={"name": "receivers", "sae": BATCH, "latent": "3"})
    address = made.headers["location"]
    assert editor.post(f"{address}/latents", data={"sae": TOP, "latent": "9", "note": "a note"}).status_code == 303
    return str(address)


def test_a_list_is_made_from_a_latent_and_read_by_anyone(browsable: TestClient, editor: TestClient, place: str) -> None:
    page = browsable.get(place).text
    assert "receivers" in page
    assert re.findall(r'data-href="/(demo/\S+)"', page) == [f"{BATCH}/3", f"{TOP}/9"]
    assert "a note" in page
    assert "<button>Save" not in page  # nobody is signed in
    assert "receivers" in browsable.get("/lists").text
    assert "receivers" in browsable.get(f"/{BATCH}/3").text
    assert browsable.get("/lists.json").json()[0]["n"] == 2
    assert [row["latent"] for row in browsable.get(f"{place}.json").json()["latents"]] == [3, 9]
    assert f"{TOP},9,,a note,eve" in browsable.get(f"{place}.csv").text
    choose = editor.get(f"/lists/add?sae={BATCH}&latent=3").text
    assert "it is in this list" in choose
    assert 'value="a note"' in editor.get(place).text


def test_a_text_runs_through_all_members_in_one_request(editor: TestClient, place: str) -> None:
    html = editor.get(f"{place}/text", params={"text": "def f"}, headers={"HX-Request": "true"}).text
    assert "<html" not in html
    assert html.count("<tr><td") == 2
    (asked,) = worker(editor).asked
    assert (asked.request.saes, asked.request.latents) == ((BATCH, TOP), (3, 9))
    whole = editor.get(f"{place}/text", params={"text": "def f"}).text
    assert "</html>" in whole
    assert len(worker(editor).asked) == 1
    assert editor.get(f"{place}/text", params={"text": " "}).status_code == 422


def test_the_lists_own_text_runs_on_every_visit(editor: TestClient, place: str) -> None:
    assert editor.post(place, data={"name": "self", "test_text": "class A & B"}).status_code == 303
    page = editor.get(place).text
    (address,) = re.findall(r'hx-get="(/lists/[^"]+/text\?text=[^"]+)" hx-trigger="load"', page)
    assert editor.get(unescape(address)).status_code == 200
    assert worker(editor).asked[0].request.texts == ("class A & B",)
    bad = editor.post(place, data={"name": "", "test_text": "kept"})
    assert (bad.status_code, "kept" in bad.text, "use 1 to 80" in bad.text) == (422, True, True)


def test_a_waiting_or_failed_worker_is_named(
    editor: TestClient, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists_pages, "PATIENCE_S", 0.05)
    worker(editor).says = [[Queued(position=3), None], [Failed(message="It went away.", gone=True)]]
    assert "waiting: 2 before this one" in editor.get(f"{place}/text?text=waits").text
    failed = editor.get(f"{place}/text?text=fails")
    assert (failed.status_code, "It went away." in failed.text) == (503, True)


def test_readers_and_visitors_change_nothing(browsable: TestClient, editor: TestClient, place: str) -> None:
    sent = {"name": "x", "sae": BATCH, "latent": "4", "sure": "yes"}
    for address in ("/lists", place, f"{place}/latents", f"{place}/latents/remove", f"{place}/delete"):
        assert browsable.post(address, data=sent).status_code == 401
    assert editor.post(f"{place}/latents", data={"sae": BATCH, "latent": "999"}).status_code == 404
    assert editor.post(f"{place}/latents", data={"sae": "demo/none", "latent": "9"}).status_code == 404
    editor.post(f"{place}/latents/remove", data={"sae": TOP, "latent": "9"})
    assert len(editor.get(f"{place}.json").json()["latents"]) == 1
    assert editor.post(f"{place}/delete").headers["location"] == f"{place}/delete"  # it asks first
    assert "Delete receivers?" in editor.get(f"{place}/delete").text
    assert editor.post(f"{place}/delete", data={"sure": "yes"}).headers["location"] == "/lists"
    assert editor.get(place).status_code == 404


def test_a_member_whose_sae_is_gone_stays_with_its_note(editor: TestClient, place: str) -> None:
    from app.library.catalog import Catalog

    catalog: Catalog = editor.app.state.catalog  # type: ignore[attr-defined]
    with catalog.sessions() as db:
        from app.db.people_tables import ListMember

        list_id = place.rsplit("/", 1)[1]
        db.add(ListMember(list_id=list_id, sae_id="demo/gone", latent=1, note="was good", author="eve"))
        db.commit()
    page = editor.get(place).text
    assert "this SAE is not here" in page
    assert "was good" in page
    tested = editor.get(f"{place}/text?text=def").text
    assert "1 latent is of an SAE without weights" in tested
