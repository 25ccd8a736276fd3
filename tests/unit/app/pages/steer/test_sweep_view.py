"""Tests of a sweep as its page shows it: rows, usable strengths, charts."""

from __future__ import annotations

import re
from html import unescape

from fastapi.testclient import TestClient

from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import HTMX, events_of, finished, made, words_of


def test_a_sweep_is_a_run_with_a_grid_whose_cells_open(browser: TestClient, worker: FakeWorker) -> None:
    place = made(browser, "/steer/sweep", sweep="4, 1 −1 0.5 2 1")
    run = finished(browser, place)
    assert run["sweep"]["strengths"] == [-1, 0.5, 1, 2, 4]
    assert worker.asked[0].request.concept
    page = browser.get(place).text
    said = words_of(page)
    assert page.count("<details class=\"sweep-row") == 6
    assert "Perplexity under the unsteered model" in said
    # 4·(1 + s) is at most three times 4 up to s = 2, and s / 12 at most 0.2 above 0: usable are ±1, 0.5 and 2
    assert page.count('class="sweep-row usable"') == 4
    link = unescape(re.findall(r'href="(/steer\?fork=[^"]+strength=2[^"]*)"', page)[0])
    assert browser.get(link.replace("/steer?", "/steer?")).status_code == 200
    assert 'name="strength" value="2"' in browser.get(link).text
    token = re.findall(rf'href="({place}/next/5/\d+)"', page)[0]
    assert "In place of" in browser.get(token, headers=HTMX).text
    assert worker.asked[-1].request.request.interventions[0].strength == 4
    events = dict(events_of(browser, place))
    assert set(events) == {"sweep", "status", "done"}
    assert "texts" in words_of(events["status"])


def test_a_clamp_and_a_factor_are_swept_in_their_own_units(browser: TestClient) -> None:
    for mode, unit in (("clamp", "strength, × max"), ("scale", "factor")):
        place = made(browser, "/steer/sweep", sweep="0 1 2", mode=mode)
        finished(browser, place)
        assert unit in words_of(browser.get(place).text)
        page = browser.get(place).text
        assert page.count("<details class=\"sweep-row") == 4
