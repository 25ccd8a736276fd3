"""Tests of a sweep as its page shows it: rows, usable strengths, charts."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app.pages.steer.lookup import Sources
from app.pages.steer.run_view import RunView, run_view
from app.pages.steer.sweep_view import sweep_charts, sweep_rows
from app.worker.protocol import Cell, Progress, Started
from app.worker.steering_runs import LiveRun
from sae.steering.measurement_requests import SweepRequest
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import HTMX, SAE, events_of, finished, made, words_of
from tests.unit.app.pages.steer.made_runs import PROMPT, cell, request, result, row, text


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


def test_the_heading_has_the_latents_name_also_while_it_is_written(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Sources, "names", lambda self, latents: {f"{s}/{n}": "the <keyword> raise" for s, n in latents})
    place = made(browser, "/steer/sweep", sweep="0 1")
    finished(browser, place)
    heading = re.compile(r"<h2>Add <a [^>]*>\d+</a> “the &lt;keyword&gt; raise” at 2 strengths</h2>")
    assert heading.search(browser.get(place).text)
    assert heading.search(dict(events_of(browser, place))["sweep"])


# ---- without a page


def swept(mode: str, cells: list[Cell], state: str = "succeeded", norm: float = 10.0) -> RunView:
    asked = request(mode)
    sweep = SweepRequest(request=asked, strengths=(1.0, 4.0))
    stored = row(asked, result({}, cells), sweep, state=state)
    stored.request["saes"][SAE]["median_norm"] = norm
    return run_view(stored, None)


def test_rows_have_the_units_of_the_form() -> None:
    plain, one, four = sweep_rows(swept("add", [cell(None), cell(1.0, concept=0.5), cell(4.0, perplexity=99.0)]))
    assert (plain.key, plain.strength, plain.coefficient, plain.ratio, plain.level) == ("0", None, None, None, "")
    assert (one.strength, one.coefficient, one.ratio, one.level) == (1.0, 2.0, pytest.approx(0.2), "")
    assert (four.coefficient, four.ratio, four.level) == (8.0, pytest.approx(0.8), "warn")
    assert [found.usable for found in (plain, one, four)] == [False, True, False]
    assert [piece.text for piece in one.text] == ["a", "b"]


def test_a_factor_has_no_coefficient_and_an_unknown_norm_no_ratio() -> None:
    assert [(r.coefficient, r.ratio) for r in sweep_rows(swept("scale", [cell(None), cell(4.0)]))] == [(None, None)] * 2
    assert [(r.coefficient, r.ratio) for r in sweep_rows(swept("add", [cell(None), cell(4.0)], norm=0.0))] == [
        (None, None), (8.0, None)]


def test_a_growing_sweep_shows_what_is_written() -> None:
    asked = request()
    live = LiveRun("steer-1")
    live.take(Started(prompt=PROMPT))
    live.take(Progress(columns={"0": text("a"), "2": text("b", "c")}))
    rows = sweep_rows(run_view(row(asked, None, SweepRequest(request=asked, strengths=(1.0, 4.0))), live))
    assert [(r.key, r.strength, len(r.text), r.concept, r.usable) for r in rows] == [
        ("0", None, 1, None, False), ("2", 4.0, 2, None, False)]


@pytest.mark.parametrize(("mode", "unsteered", "unit"), [
    ("add", "0", "strength, × max"), ("scale", "1", "factor"), ("clamp", None, "strength, × max")])
def test_charts_put_the_unsteered_text_at_the_neutral_strength(mode: str, unsteered: str | None, unit: str) -> None:
    shares, perplexity = sweep_charts(swept(mode, [cell(None, perplexity=3.0), cell(2.0), cell(4.0)]))
    for chart in (shares, perplexity):
        assert unit in chart
    found = re.findall(r"<title>([\d.]+): perplexity ([\d.]+)</title>", perplexity)
    assert found == [*([(unsteered, "3.000")] if unsteered else []), ("2", "4.000"), ("4", "4.000")]


def test_a_run_without_measures_has_no_charts() -> None:
    assert sweep_charts(swept("add", [], state="failed")) == []
    assert sweep_charts(run_view(row(request(), result({})), None)) == []
