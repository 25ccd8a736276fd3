"""Tests of the inspector's lookups: contexts, examples, cards, earlier inspections."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import SAE, stored, words_of


def test_a_context_is_opened_and_a_card_shown(browser: TestClient) -> None:
    contexts = browser.get(f"/{SAE}/2.json").json()["contexts"]
    context = contexts[0]
    form = browser.get("/inspect.json", params={
        "sae": SAE, "latent": 2, "context": f"{context['band']}.{context['rank']}"}).json()
    assert len(form["text"]) > 20
    assert browser.get("/inspect.json", params={"sae": SAE, "latent": 2, "context": "9.9"}).json()["text"] == ""
    card = browser.get("/inspect/card", params={"sae": SAE, "latent": 2}).text
    assert "1 in" in card
    assert "<html" not in card
    assert browser.get("/inspect/card", params={"sae": SAE, "latent": 60}).status_code == 404
    assert browser.get("/inspect/card", params={"sae": "demo/none", "latent": 1}).status_code == 404


def test_all_latents_of_a_context_are_shown_at_once(browser: TestClient, worker: FakeWorker) -> None:
    context = browser.get(f"/{SAE}/2.json").json()["contexts"][0]
    name = f"{context['band']}.{context['rank']}"
    page = browser.get("/inspect", params={"sae": SAE, "latent": 2, "context": name}).text
    assert "mean L0" in words_of(page)
    assert len(worker.asked) == 1
    assert "Press Inspect" in browser.get("/inspect", params={"sae": SAE, "latent": 2, "context": "9.9"}).text


def test_a_browser_finds_its_earlier_inspections(browser: TestClient) -> None:
    assert "None yet" in browser.get("/inspect/earlier").text
    first, second = stored(browser), stored(browser, text="second", text2="other <i>")
    stored(browser)  # once more: it comes first, and once
    for page in (browser.get("/inspect/earlier").text, browser.get("/inspect").text):
        assert page.count(f'href="{first}"') == 1
        assert page.index(f'href="{first}"') < page.index(f'href="{second}"')
        assert "other &lt;i&gt;" in page
    browser.cookies.clear()
    assert "None yet" in browser.get("/inspect/earlier").text
