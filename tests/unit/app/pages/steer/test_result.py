"""Tests of what a run's page and its events have of a run."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from tests.unit.app.pages.steer.lab import finished, made, words_of


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
