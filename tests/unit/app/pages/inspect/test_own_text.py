"""A latent on a text of one's own, before a made-up worker: result, silence, faults, waiting, JSON."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app.pages.inspect import own_text
from app.worker.protocol import Busy, Queued
from tests.unit.app.fake_worker import FakeWorker

SAE = "demo/2-one"
HERE = f"/inspect/{SAE}/3"  # the made-up latent 3 fires on every token, by its id
TEXT = "def café(self):\n    return <b>&amp;"
HTMX = {"HX-Request": "true", "HX-Target": "own-text"}


def test_the_text_is_shaded_by_the_latent(browser: TestClient, worker: FakeWorker) -> None:
    shown = browser.get(f"{HERE}.json", params={"text": TEXT}).json()
    ids = worker.encode(TEXT)
    assert shown["tokens"] == ids
    assert shown["acts"] == pytest.approx([1.3 + i % 7 for i in ids])
    assert (shown["max"], shown["firings"]) == (max(shown["acts"][1:]), len(ids) - 1)  # BOS does not count
    assert worker.asked[-1].request.latents == (3,)

    part = browser.post(HERE, data={"text": TEXT}, headers=HTMX).text
    assert "<html" not in part
    said = unescape(re.sub(r"<[^>]+>", "", part))
    assert f"Fires on {len(ids) - 1} of {len(ids) - 1} tokens" in said
    assert "return" in said
    assert "<b>&" not in part.replace("<b class", "")
    assert part.count(" peak") == 1
    assert 'id="acts" hx-swap-oob' in part, "the histogram comes again, with the text's activation marked"
    assert "your text" in part
    assert len(worker.asked) == 1, "one question, one answer"


def test_a_page_without_javascript(browser: TestClient) -> None:
    page = browser.get(HERE, params={"text": TEXT}).text
    assert "Latent 3 on your text" in page
    assert "how was this computed?" in page
    assert re.search(r"<textarea[^>]*>\n" + re.escape(TEXT.partition("\n")[0]), page)
    assert "Fires on" in page
    assert "Fires on" not in browser.get(HERE).text, "nothing was typed yet"


def test_a_silent_latent_says_so(browser: TestClient) -> None:
    said = browser.get(f"/inspect/{SAE}/59", params={"text": "import os"}).text
    assert "stays silent on all" in said


def test_faults_and_waiting(browser: TestClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    long = browser.post(HERE, data={"text": "x" * 20_001}, headers=HTMX)
    assert (long.status_code, "20,001 characters" in long.text) == (200, True)
    assert browser.get(f"{HERE}.json", params={"text": " "}).json()["field"] == "text"
    assert browser.get(f"/inspect/{SAE}/60", params={"text": "x"}).status_code == 404
    worker.says = [[Busy(retry_after_s=4)]]
    assert "model worker is busy" in browser.post(HERE, data={"text": "busy"}, headers=HTMX).text
    monkeypatch.setattr(own_text, "PATIENCE_S", 0.05)
    worker.says = [[Queued(position=3), None]]
    waiting = browser.post(HERE, data={"text": "slow"}, headers=HTMX).text
    assert "waiting: 2 before this one" in waiting
    assert 'hx-trigger="load delay:700ms"' in waiting
    worker.go.set()
