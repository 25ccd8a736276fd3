"""The inspector's pages before a made-up worker: form, faults, result, waiting, permalinks, JSON, cards."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.pages.inspect import inspect as inspect_route
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from app.worker.protocol import Busy, Failed, Queued
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import SAE, TEXT, stored, words_of


def test_the_first_visit_has_a_text_to_begin_with(browser: TestClient, worker: FakeWorker) -> None:
    page = browser.get("/inspect").text
    assert f'<option value="{SAE}"' in page
    assert len(re.findall(r"<textarea[^>]*>\n(.+)", page)[0]) > 5
    assert not worker.asked
    assert "style=" not in page


def test_a_text_is_stored_shown_and_found_again(browser: TestClient, worker: FakeWorker) -> None:
    place = stored(browser)
    assert place == stored(browser)  # the same text, the same address
    page = browser.get(place).text
    said = words_of(page)
    assert "<b>&amp;" in said
    assert "mean L0" in said
    assert "&lt;b&gt;" in page
    assert browser.get(place).text == page
    assert len(worker.asked) == 1
    shown = browser.get(place + ".json").json()
    assert "".join(t["text"] for t in shown["sides"][0]["tokens"][1:6])[:3] == "def"
    assert browser.get("/inspect/inspect-none").status_code == 404
    same = browser.get("/inspect", params={"text": TEXT, "sae": SAE}).text  # all of it in the address
    assert "mean L0" in same
    assert len(worker.asked) == 1


def test_a_page_says_what_it_waits_for(
    browser: TestClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_route, "PATIENCE_S", 0.05)
    worker.says = [[Queued(position=3), None]]
    page = browser.get("/inspect", params={"text": "waits", "sae": SAE}).text
    assert "waiting: 2 before this one" in page
    assert 'http-equiv="refresh"' in page
    assert 'hx-trigger="load delay' in page


def test_faults_of_the_worker_are_shown_once_and_asked_again(browser: TestClient, worker: FakeWorker) -> None:
    worker.says = [[Busy(retry_after_s=5)], [Failed(message="The model worker went away.", gone=True)],
                   [Failed(message="text: too much", field="text")]]
    asked = {"text": "again", "sae": SAE}
    full = browser.get("/inspect", params=asked)
    assert (full.status_code, full.headers["Retry-After"]) == (503, "5")
    gone = browser.get("/inspect", params=asked)
    assert gone.status_code == 503
    assert "went away" in gone.text
    assert "Try again" in gone.text
    assert browser.get("/inspect.json", params=asked).json()["error"] == "text: too much"
    assert "mean L0" in browser.get("/inspect", params=asked).text


def test_chosen_latents_go_to_the_steering_page(browser: TestClient) -> None:
    page = browser.get(stored(browser)).text
    latents = re.findall(r'type="checkbox" name="latent" value="(\d+)"', page)[:2]
    steer = browser.get("/steer.json", params={"sae": SAE, "latent": latents}).json()
    assert [str(row["latent"]) for row in steer["latents"]] == latents


def sent_to_steer(page: str) -> dict[str, str]:
    """The hidden fields that the button sends with the selected latents."""
    form = page[page.index('action="/steer"'):]
    return {name: unescape(value) for name, value in
            re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[:form.index("</form>")])}


def test_the_inspected_text_becomes_the_prompt_to_steer(browser: TestClient) -> None:
    for page in (browser.get(stored(browser)).text, browser.get(stored(browser, text2="import os")).text,
                 browser.get("/inspect", params={"sae": SAE, "text": TEXT}).text):
        steer = browser.get("/steer.json", params={**sent_to_steer(page), "latent": "2"}).json()
        assert steer["prompt"] == TEXT
    long = "x = 1\n" * 400
    page = browser.get(stored(browser, text=long)).text
    assert sum(map(len, sent_to_steer(page).values())) < 200  # an address would not hold the text
    assert browser.get("/steer.json", params={**sent_to_steer(page), "latent": "2"}).json()["prompt"] == long
    assert browser.get("/steer", params={"sae": SAE, "latent": "2", "inspection": "inspect-none"}).status_code == 200


def test_reads_that_make_the_model_work_are_counted(home: Path) -> None:
    settings = Settings(home=home, demo=False, database_url="", steers_per_minute=2)
    app = create_app(settings, supervise=False)
    with TestClient(app, follow_redirects=False) as client:
        app.state.worker = worker = FakeWorker()
        app.state.cached_requests = CachedRequests(app.state.worker)

        def read(path: str, text: str) -> int:
            return client.get(path, params={"sae": SAE, "text": text}).status_code

        for path in ("/inspect", f"/inspect/{SAE}/3"):
            app.state.limits["inspect"]._full.clear()
            assert [read(path, f"{path} {n}") for n in range(4)] == [200, 200, 429, 429]
            assert read(path, f"{path} 0") == 200  # its answer is at hand: nothing is computed
        assert len(worker.asked) == 4
        refused = client.get("/inspect.json", params={"sae": SAE, "text": "one more"})
        assert int(refused.headers["retry-after"]) > 0
        app.state.limits["inspect"]._full.clear()
        for n in range(2):  # a form that is sent and the page that it leads to count once
            assert client.get(stored(client, text=f"stored {n}")).status_code == 200


def test_an_empty_workspace_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path, demo=False, database_url=""), supervise=False)) as browser:
        assert "Nothing to inspect with yet" in browser.get("/inspect").text
        assert browser.post("/inspect", data={"text": "x", "sae": SAE}).status_code == 422
