"""Tests of the search of a phrase, in one list with what is active on it, before a made-up worker."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.library import labels
from app.pages.find import phrase
from app.worker.protocol import Failed, Queued
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import OTHER, SAE, words_of

PHRASE = "def read(self):"
HTMX = {"HX-Request": "true"}


def test_labels_and_active_latents_are_in_one_list(browser: TestClient, worker: FakeWorker) -> None:
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, OTHER, 7, "ada", text=f"a method like {PHRASE}")
    rows = browser.get("/search/found.json", params={"q": PHRASE}).json()["latents"]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    kinds = [{reason["kind"] for reason in row["reasons"]} for row in rows]
    assert kinds[0] >= {"label"}
    assert (rows[0]["sae"], rows[0]["latent"]) == (OTHER, 7)
    active = {(row["sae"], row["latent"]) for row in rows if any(r["kind"] == "active" for r in row["reasons"])}
    assert {sae for sae, _ in active} == {SAE, OTHER}
    assert len(worker.asked) == 1
    part = browser.get("/search/found", params={"q": PHRASE, "sae": SAE}, headers=HTMX).text
    assert "<html" not in part
    assert "hx-get" not in part
    assert "active on this text, most on" in words_of(part)
    whole = browser.get("/search/found", params={"q": PHRASE}).text
    assert "<html" in whole
    assert whole.count("<tr data-row") == len(rows)


def test_the_search_page_shows_its_list_and_asks_for_the_active_ones(browser: TestClient, worker: FakeWorker) -> None:
    html = browser.get("/search", params={"q": PHRASE}).text
    assert 'hx-get="/search/found?q=def+read' in html
    assert worker.asked == []
    assert "hx-get" not in browser.get("/search", params={"q": "read"}).text.partition('id="found"')[2], "one word"


def test_it_says_what_it_waits_for_and_keeps_the_rest_when_the_model_fails(
    browser: TestClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phrase, "PATIENCE_S", 0.05)
    worker.says = [[Queued(position=3), None], [Failed(message="The model worker went away.", gone=True)]]
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, SAE, 7, "ada", text="fails often")
    part = browser.get("/search/found", params={"q": "it waits"}, headers=HTMX).text
    assert "waiting: 2 before this one" in part
    assert 'hx-trigger="load delay' in part
    part = browser.get("/search/found", params={"q": "fails often"}, headers=HTMX).text
    assert "The model worker went away." in part
    assert "<b>fails often</b>" in part
    assert "hx-trigger" not in part
