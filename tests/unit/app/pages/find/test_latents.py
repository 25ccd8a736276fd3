"""Tests of a found latent as pages show it, and that every page finds the same latents in the same order."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.db.tables import Sae
from app.library import explanations, labels
from app.library.latent_search import FoundLatent, Reason
from app.pages.find.latents import Result, find_scope, numbered, with_number
from app.render.latent_words import RuleWords
from sae.store.map_points import MapPoints
from sae.store.records import Rule
from tests.unit.app.conftest import BATCH, TOP, write_sae
from tests.unit.app.pages.explore.test_compare import compared
from tests.unit.app.pages.html import json_of, page, text_of


def result(*reasons: Reason, name: str = "", rule: RuleWords | None = None) -> Result:
    found = FoundLatent(3, {reason.kind: reason for reason in reasons}, BATCH)
    return Result(Sae(id=BATCH, n_latents=9), found, 0.1, None, rule, name, None)


def said(one: Result) -> list[str]:
    return [" ".join([reason.words, *reason.tokens, reason.value]).strip() for reason in one.why]


def test_no_text_is_repeated() -> None:
    label, note = Reason("label", 4.5, "label", value="a loop"), Reason("note", 2.5, "note", value="a loop in tests")
    made, near = Reason("explanation", 3.2, "explanation", value="for loops"), Reason("meaning", 2, "x", value="a loop")
    assert said(result(label, note, made, near, name="a loop")) == [
        "its label", "explanation for loops", "note a loop in tests", "its explanation has a similar meaning"]
    assert said(result(label, made, name="for loops")) == ["label a loop", "its explanation"]
    same = Reason("explanation", 3.2, "explanation", value="a loop")
    assert said(result(label, same, name="for loops")) == ["label a loop"]


def test_a_rule_that_is_shown_is_not_repeated() -> None:
    reason = Reason("rule", 2.9, "fires on", ["self"], "precision 90%, recall 80%")
    fires = Reason("fires", 1.5, "fires on", ["self"], "lift 3×")
    rule = RuleWords("fires on", ["self"], Rule("token", [5], None, 0.9, 0.8, 0.85))
    shown = result(reason, fires, rule=rule)
    assert shown.title == "fires on self"
    assert said(shown) == ["its rule precision 90%, recall 80%", "fires on self lift 3×"]
    text = Reason("rule", 2.4, "rule", value='fires on "self"')
    assert said(result(text, rule=rule)) == said(result(text, name='fires on "self"')) == ["its rule"]
    assert said(result(text, name="a method")) == ['rule fires on "self"']
    assert said(result(reason)) == ["fires on self precision 90%, recall 80%"]


def test_a_number_finds_its_latent() -> None:
    saes = [Sae(id="demo/a", n_latents=9), Sae(id="demo/b", n_latents=20)]
    assert [sae.id for sae in with_number(saes, "12")] == ["demo/b"]
    ((sae_id, (hit,)),) = numbered(saes, "12", {}).items()
    assert (sae_id, hit.latent, hit.say().words) == ("demo/b", 12, "its number")
    assert numbered(saes, "x", {}) == {}


def test_the_scope_leaves_out_hidden_saes(browsable: TestClient) -> None:
    catalog = browsable.app.state.catalog  # type: ignore[attr-defined]
    write_sae(browsable.app.state.settings.workspace, "demo/no-index")  # type: ignore[attr-defined]
    catalog.sync()
    every = find_scope(catalog, "")
    assert every.current is None
    assert every.reader is not None
    assert {sae.id for sae in every.chosen} == {BATCH, TOP, "demo/no-index"}
    assert [sae.id for sae in find_scope(catalog, TOP).chosen] == [TOP]
    assert find_scope(catalog, "demo/no-index").reader is None


@pytest.fixture
def ranked(browsable: TestClient) -> list[int]:
    """Write about some latents, and return what the search box finds for `self`."""
    compared(browsable.app.state.settings.workspace)  # type: ignore[attr-defined]
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, BATCH, 12, "ada", text="self")
        labels.save(db, BATCH, 17, "ada", note="not self")
        explanations.write(db, BATCH, 30, "an attribute of self", "ada")
        db.commit()
    return [row["latent"] for row in json_of(browsable, f"/search.json?q=self&sae={BATCH}")["latents"]]


def test_every_page_finds_them_in_the_same_order(
    browsable: TestClient, ranked: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:
    html = browsable.get("/steer/latents", params={"add": "self", "add_sae": BATCH}).text
    assert re.findall(r'name="add" value="(\d+)"', html) == [str(latent) for latent in ranked[:8]]
    assert ranked[:2] == [12, 30]
    words = text_of(html)
    assert words.count("an attribute of self") == 1
    assert "its label" in words
    html = page(browsable, f"/compare?a={BATCH}&b={TOP}&q=self")
    table = html[html.index('id="found"'):]
    rows = re.findall(rf'<tr data-row><td class="wide"><a class="num mono" href="/{BATCH}/(\d+)"', table)
    assert rows == [str(latent) for latent in ranked[:40]]
    assert text_of(table).count("an attribute of self") == 1
    assert "that was compared fits" in page(browsable, f"/compare?a={BATCH}&b={TOP}&q=zzzznowhere")
    by_number = page(browsable, f"/compare?a={BATCH}&b={TOP}&q=44")
    assert "its number" in by_number[by_number.index(f'href="/{BATCH}/44"'):]
    asked: list[list[int]] = []
    none = np.zeros(0)
    points = MapPoints(none, none, none, none)

    def plus(self: MapPoints, build: object, found: list[int]) -> MapPoints:
        asked.append(found)
        return self

    monkeypatch.setattr(MapPoints, "plus", plus)
    monkeypatch.setattr("app.pages.explore.map.map_points", lambda build: points)
    for text in ("self", "44"):
        page(browsable, f"/{BATCH}/map?q={text}")
    assert asked[0][:len(ranked)] == ranked
    assert asked[1][0] == 44
