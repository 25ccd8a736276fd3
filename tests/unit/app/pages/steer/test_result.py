"""Tests of what a run's page and its events have of a run."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from app.db.engine import SessionFactory
from app.pages.steer.result import find, run_context, run_events
from app.pages.steer.run_view import run_view
from app.worker.protocol import Started
from app.worker.steering_runs import LiveRun
from sae.steering.measurement_requests import SweepRequest
from tests.unit.app.pages.steer.lab import finished, made, words_of
from tests.unit.app.pages.steer.made_runs import PROMPT, cell, request, result, row, text


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


# ---- without a page


def test_a_run_that_no_database_has_is_not_found(sessions: SessionFactory) -> None:
    runs: Any = SimpleNamespace(get=lambda _: None, relay=None)
    with sessions() as db:
        with pytest.raises(HTTPException) as caught:
            find(db, runs, "steer-none")
        assert caught.value.status_code == 404
        db.add(row(request(), result({})))
        db.commit()
        found = find(db, runs, "steer-1")
        assert (found.live, found.view().state) == (None, "succeeded")


def test_events_are_the_columns_and_the_readout_at_the_end() -> None:
    texts = {"baseline": text("a"), "steered": text("b", kl=[0.5])}
    assert [name for name, _ in run_events(run_view(row(request(), result(texts)), None), {})] == [
        "baseline", "steered", "readout", "status"]
    live = LiveRun("steer-1")
    live.take(Started(prompt=PROMPT))
    going = run_events(run_view(row(request(), None), live), {})
    assert [name for name, _ in going] == ["baseline", "steered", "status"]
    assert "writing" in going[-1][1]


def test_events_of_a_sweep_are_its_grid() -> None:
    asked = request()
    sweep = SweepRequest(request=asked, strengths=(1.0,))
    stored = row(asked, result({}, [cell(None), cell(1.0, concept=0.5)]), sweep)
    context = run_context(run_view(stored, None), {})
    assert context["verdict"].usable == [(1.0, 1.0)]
    assert len(context["rows"]) == 2
    assert context["kl_chart"] is None
    assert [name for name, _ in run_events(run_view(stored, None), {})] == ["sweep", "status"]
    assert run_context(run_view(row(asked, None, sweep, state="failed"), None), {})["verdict"] is None
