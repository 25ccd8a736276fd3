"""Sweeps before a made-up worker: their faults, their rows, their verdict."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import HTMX, SAE, events_of, faults, finished, made, words_of


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"sweep": "1 two"}, "sweep", "Each strength must be a number from −100 to 100"),
    ({"sweep": "1 nan"}, "sweep", "Each strength must be a finite number"),
    ({"sweep": "1 1000"}, "sweep", "Each strength must be a number from −100 to 100"),
    ({"sweep": " ".join(map(str, range(17)))}, "sweep", "Strengths must be at least 1 and at most 16; 17 are given"),
    ({"sweep": "1", "mode": "ablate"}, "sweep_of", "added, clamped or scaled"),
    ({"sweep": "1", "sweep_of": "4"}, "sweep_of", "added, clamped or scaled"),
    ({"sweep": "1", "prompt": " "}, "prompt", "Type some text"),
])
def test_a_fault_of_a_sweep_is_told_at_its_field(
    browser: TestClient, changes: dict[str, Any], at: str, words: str
) -> None:
    assert words in faults(browser, "/steer/sweep", **changes)[at]


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


def test_a_sweep_says_first_which_strengths_are_usable_or_where_to_look(browser: TestClient) -> None:
    place = made(browser, "/steer/sweep", sweep="0.5 1 2 4")
    finished(browser, place)
    page = browser.get(place).text
    assert "Usable: +0.5 to +2 × max" in " ".join(words_of(page).split())
    assert page.index("Usable:") < page.index("Perplexity under the unsteered model")
    place = made(browser, "/steer/sweep", sweep="4 8")
    finished(browser, place)
    page = browser.get(place).text
    assert "None of these is usable (all are too strong: no text still reads well); try +0.4 to +4." in " ".join(
        words_of(page).split())
    button = re.findall(r'<button[^>]*formaction="/steer/sweep" name="sweep" value="([^"]+)">Sweep there', page)
    there = made(browser, "/steer/sweep", sweep=["4 8", button[0]])  # as a browser sends field and button
    assert finished(browser, there)["sweep"]["strengths"] == [float(word) for word in button[0].split()]
    assert "Usable: +" in words_of(browser.get(there).text)


def test_a_clamp_and_a_factor_are_swept_in_their_own_units(browser: TestClient) -> None:
    for mode, unit in (("clamp", "strength, × max"), ("scale", "factor")):
        place = made(browser, "/steer/sweep", sweep="0 1 2", mode=mode)
        finished(browser, place)
        assert unit in words_of(browser.get(place).text)
        page = browser.get(place).text
        assert page.count("<details class=\"sweep-row") == 4
