"""Tests of the steering form: filled in from the address or a run, changed, and sent."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import (
    HTMX,
    OTHER,
    SAE,
    fields,
    finished,
    form_fields,
    made,
    words_of,
)


@pytest.mark.parametrize(("mode", "strength"), [
    ("add", 3), ("clamp", 2), ("scale", 0.5), ("ablate", 0), ("remove", 0)])
def test_every_mode_takes_its_own_number(browser: TestClient, mode: str, strength: float) -> None:
    place = made(browser, mode=mode)
    kept = finished(browser, place)["request"]["interventions"][0]
    assert (kept["mode"], kept["strength"]) == (mode, strength)
    form = browser.get(f"/steer?fork={place.removeprefix('/steer/')}").text
    assert f'<option value="{mode}" selected' in form
    for name in ("strength", "target", "factor"):  # three sliders, none of which ever means another thing
        assert form.count(f'data-name="{name}"') == 1


def test_sampling_and_columns_go_into_the_request_and_back_into_the_form(browser: TestClient) -> None:
    place = made(browser, samples="2", control="1", repetition_penalty="1.3", top_k="40", top_p="0.5",
                 stop="\\n\\n\r\nend\\\\", special="1", positions="from", start="3")
    asked = finished(browser, place)["request"]
    assert asked["columns"] == ["baseline", "steered", "control"]
    assert asked["samples"] == 2
    assert asked["sampling"]["stop"] == ["\n\n", "end\\"]
    assert asked["sampling"]["repetition_penalty"] == 1.3
    assert asked["where"] == {"positions": "from", "start": 3, "special": True}
    page = browser.get(place).text
    assert "\\n\\n\nend\\\\</textarea>" in page
    assert re.search(r'name="control" value="1" checked', page)
    again = made(browser, **{**form_fields(page), "seed": "1"})
    assert finished(browser, again)["request"] == asked


def test_an_address_with_very_many_latents_is_refused_at_once(browser: TestClient) -> None:
    many = [("sae", SAE), *(("latent", str(n % 60)) for n in range(33))]
    for answer in (browser.get("/steer", params=many), browser.get("/steer.json", params=many),
                   browser.post("/steer/form", data=fields(latent=[n for _, n in many[1:]]))):
        assert answer.status_code == 422
        assert "33 latents are given, and at most 32 are possible" in answer.text
        assert "steer-form" not in answer.text
    assert browser.get("/steer", params=many[:-1]).text.count('class="chip"') == 32


def test_opening_the_page_warms_the_worker(browser: TestClient, worker: FakeWorker) -> None:
    assert not worker.asked
    assert "/steer/warm?sae=" in browser.get(f"/steer?sae={SAE}&latent=2").text
    assert browser.get("/steer/warm", params={"sae": SAE}).status_code == 204
    assert [message.type for message in worker.asked] == ["warm"]
    assert browser.get("/steer/warm", params={"sae": "demo/none"}).status_code == 204


def test_a_chat_is_asked_by_the_template_and_goes_on(browser: TestClient) -> None:
    sae = "chatty/2-one"
    assert 'name="chat"' in browser.get(f"/steer?sae={sae}&latent=2").text
    assert 'name="chat"' not in browser.get(f"/steer?sae={SAE}&latent=2").text
    place = made(browser, sae=sae, chat="1", system="Be brief.", prompt="Hello?")
    run = finished(browser, place)
    assert run["request"]["prompt"] == ""
    assert run["request"]["chat"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    page = browser.get(place).text
    assert "Be brief.</textarea>" in page
    reply = f"/steer?fork={run['id']}&reply=steered"
    assert unescape(reply) in unescape(page)
    form = form_fields(browser.get(reply).text)
    assert form["role"] == ["user", "assistant"]
    assert form["content"] == ["Hello?", run["text"]["steered"]]
    second = made(browser, **{**form, "prompt": "And then?"})
    said = [message["role"] for message in finished(browser, second)["request"]["chat"]]
    assert said == ["system", "user", "assistant", "user"]
    forgotten = browser.post("/steer/form", data={**form, "forget": "1"}, headers=HTMX).text
    assert 'name="role"' not in forgotten


def test_the_first_visit_is_filled_in(browser: TestClient) -> None:
    page = browser.get("/steer").text
    shown = browser.get("/steer.json").json()
    assert shown["prompt"]
    assert len(shown["latents"]) == 1
    latent = shown["latents"][0]
    assert latent["strength"] != 0
    assert latent["max_act"] > 0
    assert f'name="latent" value="{latent["latent"]}"' in page
    assert "onclick" not in page
    assert "style=" not in page


def test_the_address_chooses_latents_and_their_strengths(browser: TestClient) -> None:
    shown = browser.get("/steer.json", params={"sae": SAE, "latent": [3, 8], "strength": ["-2", "0.5"]}).json()
    assert [(c["latent"], c["strength"]) for c in shown["latents"]] == [(3, -2.0), (8, 0.5)]
    assert {c["sae"] for c in shown["latents"]} == {SAE}


def test_latents_are_added_and_removed_and_nothing_typed_is_lost(browser: TestClient) -> None:
    typed = fields(prompt="x = <b>&", strength="1.25", seed="77", add="5", add_sae=OTHER)
    form = browser.post("/steer/form", data=typed, headers=HTMX).text
    assert "<html" not in form
    assert re.findall(r'name="latent" value="(\d+)"', form) == ["2", "5"]
    assert re.findall(r'name="sae" value="([^"]+)"', form) == [SAE, OTHER]
    assert "x = &lt;b&gt;&amp;" in form
    assert 'value="1.25"' in form
    assert 'value="77"' in form
    del typed["add"]
    fewer = browser.post("/steer/form", data={**typed, "latent": ["2", "9"], "drop": "0"}, headers=HTMX).text
    assert re.findall(r'name="latent" value="(\d+)"', fewer) == ["9"]


def test_a_fork_fills_the_form(browser: TestClient) -> None:
    place = made(browser, seed="4321", prompt="import os, <sys>\n", positions="output")
    finished(browser, place)
    page = browser.get("/steer", params={"fork": place.removeprefix("/steer/")}).text
    assert 'value="4321"' in page
    assert "import os, &lt;sys&gt;" in page
    assert '<option value="output" selected>' in page


def test_an_empty_workspace_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path / "d", demo=False, database_url=""), supervise=False)) as browser:
        assert "Nothing to steer with yet" in browser.get("/steer").text
        assert browser.post("/steer", data=fields()).status_code == 422


def test_a_sweep_without_strengths_takes_those_that_suit_the_latent(browser: TestClient) -> None:
    form = browser.get(f"/steer?sae={SAE}&latent=2").text
    shown = unescape(re.findall(r'name="sweep"[^>]*value="" placeholder="([^"]+)"', form)[0])
    place = made(browser, "/steer/sweep")
    strengths = finished(browser, place)["sweep"]["strengths"]
    assert strengths == [float(word.replace("−", "-")) for word in shown.split()]
    assert browser.get(f"/steer.json?sae={SAE}&latent=2").json()["sweep"] == shown
    breaks = float(re.findall(r"breaks? (?:past|beyond) ±([\d.]+)", words_of(form))[0])
    assert max(strengths) == pytest.approx(1.5 * breaks, rel=0.1)
    assert min(strengths) == -max(strengths)
    flags = words_of(re.findall(r'<span class="flag">(.*?)</span>', browser.get(place).text, re.S)[-1])
    assert flags == f"add 2 at {len(strengths)} strengths", "the strength of the form is not that of the sweep"
