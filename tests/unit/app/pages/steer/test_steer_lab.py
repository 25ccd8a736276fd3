"""The steering lab before a made-up worker: modes, columns, samples, chat, read-outs, a worker that dies."""

from __future__ import annotations

import json
import re
import time
from html import unescape
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.worker.protocol import Failed, Loading, Progress, Queued, Started, Text
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import (
    HTMX,
    SAE,
    events_of,
    faults,
    fields,
    finished,
    form_fields,
    made,
    words_of,
)

GONE = Failed(message="The model worker stopped during this request. The next run starts it again.", gone=True)


# ---- the form


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


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"mode": "clamp", "target": "nan"}, "target-0", "finite number"),
    ({"mode": "clamp", "target": "1e9"}, "target-0", "−100 to 100"),
    ({"mode": "scale", "factor": "x"}, "factor-0", "−100 to 100"),
    ({"strength": "-inf"}, "strength-0", "finite number"),
    ({"samples": "0"}, "samples", "1 to 8"),
    ({"samples": "9"}, "samples", "1 to 8"),
    ({"repetition_penalty": "0.5"}, "repetition_penalty", "1 to 2"),
    ({"stop": "a\nb\nc\nd\ne"}, "stop", "Stop strings must be at most 4; 5 are given"),
    ({"stop": "x" * 65}, "stop", "at most 64 characters"),
    ({"latent": [str(n) for n in range(17)], "mode": ["ablate"] * 17}, "add", "at most 16"),
    ({"chat": "1"}, "chat", "no chat template"),
    ({"length": "-1"}, "length", "1 to 512"),
    ({"prompt": ""}, "prompt", "Type some text"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "prompt", "Type some text"),  # all at once
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "length", "Length must be a whole number from 1"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "strength-0", "Strength must be a number from"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "latent-0", "there is no 99"),
    ({"prompt": "x" * 50_001}, "prompt", "Prompt must be at most 50,000 characters"),
    ({"start": "1000001"}, "start", "From position must be a whole number from 0 to 1,000,000"),
    ({"top_k": "9" * 5000}, "top_k", "Top-k must be a whole number"),
])
def test_a_fault_is_told_at_its_field(
    browser: TestClient, worker: FakeWorker, changes: dict[str, Any], at: str, words: str
) -> None:
    assert words in faults(browser, **changes)[at]
    assert not worker.asked


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


# ---- texts


def test_columns_of_every_sample_stream_by_their_names(browser: TestClient) -> None:
    place = made(browser, samples="2", control="1")
    events = dict(events_of(browser, place))
    columns = ["baseline", "steered", "control", "baseline.2", "steered.2", "control.2"]
    assert [name for name in events if name in columns] == columns
    assert list(events)[-1] == "done"
    assert "48 tokens in all columns" in words_of(events["status"])
    assert "KL to the unsteered model" in events["readout"]
    page = browser.get(place).text
    for name in columns:
        assert f'id="{name}"' in page
    assert "Sample 2" in words_of(page)
    assert "Random control" in words_of(page)


def test_a_finished_text_leads_from_each_token_to_what_might_have_stood_there(
    browser: TestClient, worker: FakeWorker
) -> None:
    place = made(browser)
    run = finished(browser, place)
    links = re.findall(rf'href="({place}/next/steered/\d+)"', browser.get(place).text)
    assert len(links) > 8
    fragment = browser.get(links[-1], headers=HTMX).text
    assert "<html" not in fragment
    assert "In place of" in fragment
    assert "sampled" in words_of(fragment)
    asked = worker.asked[-1].request
    prompt, output = run["result"]["prompt"]["ids"], run["result"]["columns"]["steered"]["ids"]
    assert list(asked.ids) == prompt + output
    assert asked.prompt_tokens == len(prompt)
    last = len(prompt + output) - 1
    assert list(asked.positions) == [last - 1, last]
    assert "<html" in browser.get(links[-1]).text
    rows = browser.get(links[-1] + ".json").json()["tables"][0]["rows"]
    assert {"id", "piece", "baseline", "steered"} == set(rows[0])
    for wrong in ("steered/0", "steered/999", "nothing/3", "7/3"):
        assert browser.get(f"{place}/next/{wrong}").status_code == 404
    assert len([m for m in worker.asked if m.type == "readout"]) == 1
    worker.says = [[Failed(message="steering: no", field="x")]]
    assert "steering: no" in browser.get(links[0], headers=HTMX).text


def test_one_latents_activation_may_colour_the_text(browser: TestClient) -> None:
    place = made(browser, latent=["2", "4"], strength=["1", "1"], mode=["add", "add"], target=["1", "1"],
                 factor=["1", "1"])
    finished(browser, place)
    assert "the steered latents fire" in words_of(browser.get(place).text)
    fragment = browser.get(f"{place}?by=1", headers=HTMX).text
    assert "latent 4 fires" in words_of(fragment)
    assert "<html" not in fragment


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


def test_a_run_is_also_a_program(browser: TestClient) -> None:
    place = made(browser, prompt='say("hi")')
    finished(browser, place)
    program = browser.get(f"{place}.py")
    compile(program.text, "run.py", "exec")
    assert "transformer_lens" in program.text
    assert program.headers["content-type"].startswith("text/x-python")


# ---- what goes wrong


def test_a_worker_that_dies_is_told_of_and_the_run_begins_anew(browser: TestClient, worker: FakeWorker) -> None:
    some = worker.text([300, 301], 1)
    started = Started(prompt=worker.text([0, 400], 1))
    worker.says = [[started, Progress(columns={"steered": some}), GONE]]
    place = made(browser)
    run = finished(browser, place)
    assert run["state"] == "succeeded"
    assert len(worker.asked) == 2
    assert worker.asked[0] == worker.asked[1]
    said = words_of(browser.get(place).text)
    assert "The model worker stopped" in said
    assert "started over" in said
    worker.says = [[started, GONE], [Loading(what="x"), GONE]]
    twice = made(browser)
    assert finished(browser, twice)["state"] == "failed"
    assert "Try again" in browser.get(twice).text
    assert finished(browser, made(browser))["state"] == "succeeded"


def test_the_place_in_the_queue_is_shown(browser: TestClient, worker: FakeWorker) -> None:
    worker.says = [[Queued(position=3), None]]
    place = made(browser)
    deadline = time.monotonic() + 30
    while "waiting: 2 before this one" not in browser.get(place).text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "sse-connect" in browser.get(place).text
    browser.post(f"{place}/stop")
    worker.says = []
    assert finished(browser, place)["state"] in ("stopped", "succeeded")


def test_a_run_of_an_older_program_is_still_shown(browser: TestClient) -> None:
    from app.db.tables import SteerRun

    asked = {"model": "demo", "prompt": "x", "interventions": [{"sae": SAE, "layer": 2, "latent": 1, "max_act": 1}]}
    text = {"ids": [300], "pieces": ["a"], "acts": [[0.5]], "finish": "length"}
    result = {"prompt": Text().model_dump(), "columns": {"baseline": text, "steered": text}, "tokens": 2, "seconds": 1}
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        db.add(SteerRun(id="steer-old", sae_id=SAE, state="succeeded", result=json.loads(json.dumps(result)),
                        request={"steer": asked, "saes": {}}))
        db.commit()
    assert "token for token" in browser.get("/steer/steer-old").text
