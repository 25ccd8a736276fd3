"""Tests of an inspection's result: ranks, sides, differences, tokens."""

from __future__ import annotations

from fastapi.testclient import TestClient

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
