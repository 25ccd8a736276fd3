"""The inspector's pages before a made-up worker: form, faults, result, waiting, permalinks, JSON, cards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.pages.inspect import inspect as inspect_route
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from app.worker.protocol import Busy, Failed, Queued
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker

SAE, OTHER = "demo/2-one", "demo/2-other"
HTMX = {"HX-Request": "true"}
TEXT = "def caf\u00e9(self):\n    return <b>&amp;"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(home=tmp_path_factory.mktemp("inspect"), demo=False, database_url="")
    for sae_id in (SAE, OTHER):
        write_sae(settings.workspace, sae_id, n_latents=60)
        path = settings.home / "builds" / sae_id / "build-1.duckdb"
        path.parent.mkdir(parents=True)
        make_build(path, sae_id=sae_id, n_latents=60)
    return settings.home


@pytest.fixture
def browser(home: Path) -> Iterator[TestClient]:
    settings = Settings(home=home, demo=False, database_url="", steers_per_minute=1e6)
    app = create_app(settings, supervise=False)
    with TestClient(app, follow_redirects=False) as client:
        app.state.worker = FakeWorker()
        app.state.cached_requests = CachedRequests(app.state.worker)
        yield client


@pytest.fixture
def worker(browser: TestClient) -> FakeWorker:
    found: FakeWorker = browser.app.state.worker  # type: ignore[attr-defined]
    return found


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def stored(browser: TestClient, **fields: str) -> str:
    answer = browser.post("/inspect", data={"text": TEXT, "sae": SAE, **fields})
    assert answer.status_code == 303, words_of(answer.text)
    return str(answer.headers["location"])


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


def test_ranks_filters_colours_and_tokens_are_in_the_address(browser: TestClient, worker: FakeWorker) -> None:
    place = stored(browser)
    plain = browser.get(place + ".json").json()["sides"][0]["latents"]
    assert 3 not in [row["latent"] for row in plain]  # a dense one
    assert [row["max"] for row in plain] == sorted((row["max"] for row in plain), reverse=True)
    dense = browser.get(place + ".json?dense=1&rank=sum").json()["sides"][0]["latents"]
    assert dense[0]["latent"] == 3
    assert [row["sum"] for row in dense] == sorted((row["sum"] for row in dense), reverse=True)
    special = browser.get(place + ".json?dense=1&special=1").json()["sides"][0]["latents"]
    assert sum(row["n"] for row in special) == sum(row["n"] for row in dense) + 30  # all 30 fire on BOS, whose id is 0
    surprise = browser.get(place + ".json?rank=surprise").json()["sides"][0]["latents"]
    assert [row["surprise"] for row in surprise] == sorted((row["surprise"] for row in surprise), reverse=True)
    token = browser.get(place + "?at=1", headers={**HTMX, "HX-Target": "token-latents"}).text
    assert "<html" not in token
    assert "at position 1" in words_of(token)
    assert "at position 1" in words_of(browser.get(place + "?at=1").text)
    assert "Choose a token" in words_of(browser.get(place + "?at=9999").text)
    coloured = browser.get(f"{place}?latent={plain[0]['latent']}").text
    assert f"shaded by latent {plain[0]['latent']}" in words_of(coloured)
    assert len(worker.asked) == 1


def test_two_saes_are_shown_beside_each_other(browser: TestClient) -> None:
    place = stored(browser, **{"with": OTHER})
    page = browser.get(place + "?at=2&of=1").text
    assert page.count('class="text ctx cells"') == 2
    assert page.count("Steer with selected") == 2
    assert f'name="sae" value="{OTHER}"' in page
    assert [side["sae"] for side in browser.get(place + ".json").json()["sides"]] == [SAE, OTHER]


def test_two_texts_are_told_apart(browser: TestClient) -> None:
    place = stored(browser, text2="import os\nimport sys")
    page = words_of(browser.get(place).text)
    assert "Which latents differ" in page
    rows = browser.get(place + ".json").json()["differences"]
    values = [abs(row["difference"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert all(row["first"] or row["second"] for row in rows)


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"text": "  \n"}, "text", "type or paste"),
    ({"text": "x" * 20_001}, "text", "at most"),
    ({"text": "x = 1\n" * 1500}, "text", "tokens with BOS"),
    ({"sae": "demo/none"}, "sae", "there is no SAE"),
    ({"sae": ""}, "sae", "choose an SAE"),
    ({"with": SAE}, "with", "the same SAE"),
    ({"with": OTHER, "text2": "y"}, "with", "two texts"),
])
def test_a_fault_is_told_at_its_field_and_nothing_is_lost(
    browser: TestClient, worker: FakeWorker, changes: dict[str, Any], at: str, words: str,
) -> None:
    typed = {"text": "kept = 1", "sae": SAE, **changes}
    answer = browser.post("/inspect", data=typed, headers={"Accept": "application/json"})
    assert answer.status_code == 422
    assert words in answer.json()["errors"][at]
    page = browser.post("/inspect", data=typed)
    assert page.status_code == 422
    assert f'id="{at}-error"' in page.text
    assert typed["text"].strip()[:50] in page.text
    fragment = browser.post("/inspect", data=typed, headers=HTMX)
    assert fragment.headers["HX-Retarget"] == "#inspect-form"
    assert "<html" not in fragment.text
    assert not worker.asked


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
