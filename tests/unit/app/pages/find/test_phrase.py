"""Tests of a phrase on every page that searches: the list at once, then the same with what the model finds."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.db.tables import Sae
from app.library import lists
from app.pages.find import phrase
from app.pages.find.latents import Scope
from app.pages.find.phrase import Read, reading
from app.worker.cached_requests import CachedRequests
from app.worker.protocol import Failed, Queued
from sae.store.map_points import MapPoints
from tests.unit.app.conftest import BATCH, TOP
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.explore.test_compare import compared
from tests.unit.app.pages.html import json_of, page, text_of

PHRASE = "def read(self):"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def worker(admin: TestClient, browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    state, fake = browsable.app.state, FakeWorker()  # type: ignore[attr-defined]
    state.worker, state.cached_requests = fake, CachedRequests(fake)  # type: ignore[arg-type]
    number = np.arange(60)
    points = MapPoints(number, number % 7, number % 5, 10.0 ** -(number % 5))
    monkeypatch.setattr("app.pages.explore.map.map_points", lambda _: points)
    compared(state.settings.workspace)
    with state.sessions() as db:
        lists.put(db, lists.create(db, "ada", "mine"), BATCH, 3, "ada")
    return fake


def pages(browsable: TestClient) -> dict[str, str]:
    (mine,) = json_of(browsable, "/lists.json")
    return {"search": f"/search?q=def+read%28self%29%3A&sae={BATCH}",
            "steer": f"/steer/latents?add=def+read%28self%29%3A&add_sae={BATCH}",
            "list": f"{mine['url']}?q=def+read%28self%29%3A&within={BATCH}",
            "compare": f"/compare?a={BATCH}&b={TOP}&q=def+read%28self%29%3A",
            "map": f"/{BATCH}/map?q=def+read%28self%29%3A"}


def test_each_list_is_loaded_again_with_what_the_model_finds(browsable: TestClient, worker: FakeWorker) -> None:
    for name, address in pages(browsable).items():
        asked = len(worker.asked)
        html = page(browsable, address)
        assert len(worker.asked) == asked, name
        assert "The model reads the text" in html, name
        (url,) = re.findall(r'hx-get="([^"]+)" hx-trigger="load(?: delay:800ms)?" hx-swap="outerHTML"', html)
        part = browsable.get(unescape(url), headers=HTMX).text
        assert "<html" not in part, name
        assert 'hx-trigger="load' not in part, name
        assert ("Rings mark" if name == "map" else "In one list") in text_of(part), name
        if name == "map":
            assert re.search(r"[\d,]+ ringed", part)
        else:
            assert "active on this text, most on" in text_of(part), name
    assert len(worker.asked) == 1, "every page uses the same answer"


def test_each_list_says_what_it_waits_for_and_stays_when_the_model_fails(
    browsable: TestClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phrase, "PATIENCE_S", 0.05)
    for i, (name, address) in enumerate(pages(browsable).items()):
        if name == "search":  # `test_found` has it
            continue
        worker.says = [[Queued(position=3), None], [Failed(message="The model worker went away.", gone=True)]]
        url = address.replace("/map?", "/map/found?") + "&read=1"
        waiting = browsable.get(url.replace("read%28", f"wait{i}%28"), headers=HTMX).text
        assert "waiting: 2 before this one" in waiting, name
        assert 'hx-trigger="load delay' in waiting, name
        failed = browsable.get(url.replace("read%28", f"fail{i}%28"), headers=HTMX).text
        assert "The model worker went away." in failed, name
        assert "hx-trigger" not in failed, name


def test_only_phrases_are_read_and_only_where_a_model_is() -> None:
    sae = Sae(id="demo/a", n_latents=9)
    assert not reading(Scope([sae], sae, sae), "word", "/x").due
    assert not reading(Scope([sae], sae, None), "two words", "/x").due
    assert reading(Scope([sae], sae, sae), "two words", "/x").due
    assert reading(Scope([sae], sae, sae), "two words", "/x", Read(waiting="next")).due
    assert not reading(Scope([sae], sae, sae), "two words", "/x", Read()).due
