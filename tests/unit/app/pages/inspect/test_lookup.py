"""Tests of the inspector's lookups: contexts, examples, cards, earlier inspections."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.pages.inspect.lookup import card_of, context_text, example, plain_text, readings
from app.worker.protocol import Inspected, InspectedText, TextLatent, TextLatents
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import OTHER, SAE, stored, words_of


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


# ---- without a page


def test_an_answer_becomes_a_reading_for_each_text_under_each_sae() -> None:
    def latents(sae: str, latent: int) -> TextLatents:
        return TextLatents(sae=sae, l0=[0, 1], pos=[1], lat=[latent], act=[2.0],
                           ranked=[TextLatent(latent=latent, max=2.0, sum=2.0, peak=1, n=1)])

    answer = Inspected(seconds=0.1, texts=[
        InspectedText(ids=[0, 5 + i], pieces=["", "\xc3"], special=[True, False], windows=[1] * i,
                      saes=[latents(SAE, 10 + i), latents(OTHER, 20 + i)]) for i in range(2)])
    found = readings(answer)
    assert [reading.firings for reading in found] == [[[], [(latent, 2.0)]] for latent in (10, 11, 20, 21)]
    assert (found[0].pieces, found[0].special, found[0].l0) == ([b"", b"\xc3"], [True, False], [0, 1])
    assert [sorted(reading.windows) for reading in found] == [[], [1], [], [1]]
    assert found[3].counted[0].latent == 21


def test_a_context_is_named_by_its_band_and_rank(browser: TestClient) -> None:
    state = browser.app.state  # type: ignore[attr-defined]
    with state.builds.use(SAE, "build-1") as build:
        context = build.contexts(2)[0]
        text = plain_text(build, context.tokens)
        bos = build.meta["bos_token"]
        assert plain_text(build, [bos]) == "", "special tokens are no text"
        latent = build.latent(2)
        assert latent is not None
        card = card_of(build, latent)
        assert (len(card.fires_on) <= 3, len(card.adds), 1 <= len(card.rows) <= 4) == (True, 4, True)
        assert card.fires_on[0].token == latent.top_tokens[0].token
    name = f"{context.band}.{context.rank}"
    assert context_text(state.catalog, state.builds, SAE, "2", name) == text
    for wrong in ((SAE, "2", "9.9"), (SAE, "x", name), ("demo/none", "2", name), (SAE, "60", name)):
        assert context_text(state.catalog, state.builds, *wrong) == ""
    assert example(state.catalog, state.builds, SAE).startswith("def ")
    assert example(state.catalog, state.builds, "demo/none") == ""
