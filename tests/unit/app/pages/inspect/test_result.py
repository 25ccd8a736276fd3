"""Tests of an inspection's result: ranks, sides, differences, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Sae
from app.pages.inspect.form import DisplayOptions, InspectionQuery
from app.pages.inspect.result import OpenedSAE, result, result_json
from app.pages.inspect.view import ROWS_SHOWN, Counted, Reading
from sae.store.build import Build
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import HTMX, OTHER, SAE, stored, words_of


def test_ranks_filters_colours_and_tokens_are_in_the_address(browser: TestClient, worker: FakeWorker) -> None:
    place = stored(browser)
    plain = browser.get(place + ".json").json()["sides"][0]["latents"]
    assert 3 not in [row["latent"] for row in plain]  # a dense one
    assert [row["max"] for row in plain] == sorted((row["max"] for row in plain), reverse=True)
    dense = browser.get(place + ".json?dense=1&rank=sum").json()["sides"][0]["latents"]
    assert dense[0]["latent"] == 3
    assert [row["sum"] for row in dense] == sorted((row["sum"] for row in dense), reverse=True)
    special = browser.get(place + ".json?dense=1&special=1").json()["sides"][0]["latents"]
    assert sum(row["n"] for row in special) == sum(row["n"] for row in dense) + 30  # all 30 fire on BOS, whose id is 0
    surprise = browser.get(place + ".json?rank=surprise").json()["sides"][0]["latents"]
    assert [row["surprise"] for row in surprise] == sorted((row["surprise"] for row in surprise), reverse=True)
    token = browser.get(place + "?at=1", headers={**HTMX, "HX-Target": "token-latents"}).text
    assert "<html" not in token
    assert "at position 1" in words_of(token)
    assert "at position 1" in words_of(browser.get(place + "?at=1").text)
    assert "Choose a token" in words_of(browser.get(place + "?at=9999").text)
    coloured = browser.get(f"{place}?latent={plain[0]['latent']}").text
    assert f"shaded by latent {plain[0]['latent']}" in words_of(coloured)
    assert len(worker.asked) == 1


def test_two_saes_are_shown_beside_each_other(browser: TestClient) -> None:
    place = stored(browser, **{"with": OTHER})
    page = browser.get(place + "?at=2&of=1").text
    assert page.count('class="text ctx cells"') == 2
    assert page.count("Steer with selected") == 2
    assert f'name="sae" value="{OTHER}"' in page
    assert [side["sae"] for side in browser.get(place + ".json").json()["sides"]] == [SAE, OTHER]


def test_two_texts_are_told_apart(browser: TestClient) -> None:
    place = stored(browser, text2="import os\nimport sys")
    page = words_of(browser.get(place).text)
    assert "Which latents differ" in page
    rows = browser.get(place + ".json").json()["differences"]
    values = [abs(row["difference"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert all(row["first"] or row["second"] for row in rows)


# ---- without a page


@pytest.fixture(scope="module")
def build(home: Path) -> Iterator[Build]:
    build = Build.open(home / "builds" / SAE / "build-1.duckdb")
    yield build
    build.close()


ASKED = InspectionQuery(("x",), (SAE,))


def reading(*firings: list[tuple[int, float]]) -> Reading:
    """Return a text of BOS and tokens on which these latents fire."""
    rows = [[], *firings]
    at: dict[int, list[tuple[float, int]]] = {}
    for position, row in enumerate(rows):
        for latent, act in row:
            at.setdefault(latent, []).append((act, -position))
    counted = [Counted(latent, len(found), max(found)[0], -max(found)[1], sum(act for act, _ in found))
               for latent, found in at.items()]
    n = len(rows)
    return Reading(list(range(n)), [b"<|bos|>", *[b"a"] * (n - 1)], [True, *[False] * (n - 1)],
                   [len(row) for row in rows], rows, counted, frozenset())


def opened(build: Build, **labels: str) -> OpenedSAE:
    return [(Sae(id=SAE, current_build="b"), build, {int(k[1:]): text for k, text in labels.items()})]


def test_a_side_ranks_its_latents_with_labels_and_shares(build: Build) -> None:
    found = result(ASKED, [reading([(1, 4.0), (2, 2.0)], [(1, 1.0)])], opened(build, _2="said"), DisplayOptions())
    (side,) = found.sides
    assert [(line.found.latent, line.value, line.share, line.label) for line in side.lines] == [
        (1, 4.0, 1.0, ""), (2, 2.0, 0.5, "said")]
    assert (side.mean_l0, side.special_l0, side.n_counted, side.more, side.hidden) == (1.5, 0, 2, 0, 0)
    assert side.lines[0].snippet is not None
    assert (found.differences, found.token, found.colour) == ([], None, None)


def test_dense_latents_are_counted_but_hidden(build: Build) -> None:
    view = DisplayOptions()
    text = reading([(3, 9.0), (1, 4.0)])
    (side,) = result(ASKED, [text], opened(build), view).sides
    assert ([line.found.latent for line in side.lines], side.hidden, side.n_latents) == ([1], 1, 2)
    (side,) = result(ASKED, [text], opened(build), replace(view, dense=True)).sides
    assert ([line.found.latent for line in side.lines], side.hidden) == ([3, 1], 0)


def test_long_lists_end_unless_all_is_asked_for(build: Build) -> None:
    text = reading([(i, 1.0 + i) for i in range(60) if i % 20 != 7 and i not in (3,)])
    (short,) = result(ASKED, [text], opened(build), DisplayOptions()).sides
    assert len(short.lines) == ROWS_SHOWN
    (full,) = result(ASKED, [text], opened(build), DisplayOptions(all=True)).sides
    assert (len(full.lines), full.more) == (ROWS_SHOWN + short.more, 0)


def test_the_chosen_token_and_latent_are_those_of_the_address(build: Build) -> None:
    text = reading([(1, 4.0)], [(2, 2.0), (1, 1.0)])
    found = result(ASKED, [text], opened(build), DisplayOptions(at=2, latent=2))
    assert found.token is not None
    assert (found.token.position, found.token.label, found.token.l0) == (2, "a", 2)
    assert [bar.latent for bar in found.token.bars] == [2, 1]
    assert found.colour is not None
    assert found.colour.latent == 2
    shaded = [cell.piece.css != "" for cell in found.sides[0].cells]
    assert shaded == [False, False, True]
    assert result(ASKED, [text], opened(build), DisplayOptions(at=3)).token is None


def test_texts_differ_where_a_latent_fires_on_one_of_them(build: Build) -> None:
    asked = InspectionQuery(("x", "y"), (SAE,))
    first, second = reading([(1, 4.0), (2, 2.0)]), reading([(1, 1.0), (2, 2.0)])
    view = DisplayOptions()
    found = result(asked, [first, second], opened(build), view)
    assert [(line.found.latent, line.found.value, line.share, line.css) for line in found.differences] == [
        (1, 3.0, 1.0, "b7")], "a latent that fires on both alike is no difference"
    said = result_json(asked, found, view)
    assert [one["latent"] for one in said["differences"]] == [1]
    assert said["sides"][0]["tokens"][1] == {
        "id": 1, "text": "a", "special": False, "l0": 2, "latents": [[1, 4.0], [2, 2.0]]}
    assert (said["texts"], said["saes"], said["rank"]) == (["x", "y"], [SAE], "max")
