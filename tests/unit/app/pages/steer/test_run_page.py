"""Tests of a steering run's pages: texts, events, next tokens, faults of the worker."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.pages import dependencies
from app.pages.steer import run_page
from app.pages.steer.result import Found
from app.worker.protocol import Failed, Loading, Progress, Queued, Started
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import (
    HTMX,
    events_of,
    finished,
    made,
    words_of,
)

GONE = Failed(message="The model worker stopped during this request. The next run starts it again.", gone=True)


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


def test_a_run_is_also_a_program(browser: TestClient) -> None:
    place = made(browser, prompt='say("hi")')
    finished(browser, place)
    program = browser.get(f"{place}.py")
    compile(program.text, "run.py", "exec")
    assert "transformer_lens" in program.text
    assert program.headers["content-type"].startswith("text/x-python")


def test_a_worker_that_dies_is_named_and_the_run_starts_over(browser: TestClient, worker: FakeWorker) -> None:
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


def test_hostile_text_is_shown_not_run(browser: TestClient) -> None:
    prompt = "<script>alert(1)</script> \"'"
    place = made(browser, prompt=prompt)
    finished(browser, place)
    page = browser.get(place).text
    assert "<script>alert" not in page
    assert prompt in words_of(page)
    stream = browser.get(f"{place}/events").text
    assert "<script>" not in stream


def test_a_page_that_follows_a_run_holds_no_connection_to_the_database(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, held, states = made(browser), list[bool](), run_page.states
    finished(browser, place)
    session = dependencies.get_session
    opened: list[Session] = []

    async def noted(request: Request) -> AsyncIterator[Session]:
        async for db in session(request):
            opened.append(db)
            yield db

    async def watched(found: Found) -> AsyncIterator[None]:
        held.extend(db.in_transaction() for db in opened)
        async for one in states(found):
            yield one

    monkeypatch.setitem(browser.app.dependency_overrides, session, noted)  # type: ignore[attr-defined]
    monkeypatch.setattr(run_page, "states", watched)
    assert "done" in browser.get(f"{place}/events").text
    assert held
    assert not any(held)


def test_an_unknown_run_is_not_found(browser: TestClient) -> None:
    for address in ("/steer/steer-1", "/steer/steer-1.json", "/steer/steer-1/events"):
        assert browser.get(address).status_code == 404
    assert browser.post("/steer/steer-1/stop").status_code == 404
