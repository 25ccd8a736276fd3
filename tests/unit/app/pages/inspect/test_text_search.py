"""Tests of the search of a text over all SAEs of a model, before a made-up worker."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.pages.inspect import text_search
from app.worker.protocol import Failed, Queued
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import OTHER, SAE, words_of

TEXT = "def read(self):"


def found(browser: TestClient, **changes: Any) -> Any:
    answer = browser.post("/api/search/text", json={"text": TEXT, "top": 1000} | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_all_saes_read_the_text_in_one_request(browser: TestClient, worker: FakeWorker) -> None:
    shown = found(browser)
    assert set(shown["saes"]) == {SAE, OTHER}
    assert {row["sae"] for row in shown["latents"]} == {SAE, OTHER}
    assert len(worker.asked) == 1
    assert "".join(shown["tokens"][1:]) == TEXT
    for rank in ("max", "sum", "surprise"):
        rows = found(browser, rank=rank)["latents"]
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        for row in rows:
            unit = row["max_act"] or row["max"]
            assert row["score"] == pytest.approx(row["surprise"] if rank == "surprise" else row[rank] / unit)
            assert row["token"] == shown["tokens"][row["peak"]]
    assert len(worker.asked) == 1  # another ranking is not another pass


def test_one_sae_alone_and_always_on_latents(browser: TestClient) -> None:
    assert {row["sae"] for row in found(browser, sae=SAE)["latents"]} == {SAE}
    few, all_of_them = (found(browser, dense=dense)["latents"] for dense in (False, True))
    assert all(row["density"] <= 0.1 for row in few)
    assert [row for row in all_of_them if row["density"] <= 0.1] == few
    assert len(found(browser, top=3)["latents"]) == 3


@pytest.mark.parametrize(("changes", "field"), [
    ({"text": " "}, "text"), ({"text": "x" * 20_001}, "text"), ({"sae": "demo/none"}, "sae"), ({"model": "x"}, "model"),
    ({"rank": "mean"}, "rank"), ({"top": 0}, "top")])
def test_a_fault_names_its_field(browser: TestClient, changes: dict[str, Any], field: str) -> None:
    answer = browser.post("/api/search/text", json={"text": TEXT} | changes)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_the_page_has_one_ranked_list(browser: TestClient) -> None:
    page = browser.get("/search/text", params={"q": TEXT}).text
    rows = found(browser, top=text_search.LISTED)["latents"]
    assert page.count("<tr data-row") == len(rows)
    assert page.index(f'/{rows[0]["sae"]}/{rows[0]["latent"]}"') < page.index(f'/{rows[1]["sae"]}/{rows[1]["latent"]}"')
    assert browser.get("/search/text.json", params={"q": TEXT}).json()["latents"] == rows
    part = browser.get("/search/text", params={"q": TEXT, "sae": SAE}, headers={"HX-Request": "true"}).text
    assert "<html" not in part
    assert OTHER not in words_of(part)


def test_the_page_says_what_it_waits_for_and_what_failed(
    browser: TestClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_search, "PATIENCE_S", 0.05)
    worker.says = [[Queued(position=3), None], [Failed(message="The model worker went away.", gone=True)]]
    page = browser.get("/search/text", params={"q": "waits"}).text
    assert "waiting: 2 before this one" in page
    assert 'hx-trigger="load delay' in page
    failed = browser.get("/search/text", params={"q": "fails"})
    assert (failed.status_code, "The model worker went away." in failed.text) == (503, True)
    empty = browser.get("/search/text")
    assert (empty.status_code, "<textarea" in empty.text) == (200, True)
