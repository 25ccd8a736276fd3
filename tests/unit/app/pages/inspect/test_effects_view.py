"""Tests of a latent's effects: the messages to the worker, and the figures of the page."""

from __future__ import annotations

from fastapi.testclient import TestClient

from sae.store.build import Build
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.inspect.texts import SAE, words_of

DEAD = 7


def test_contexts_begin_with_bos_and_strengths_are_the_builds(browser: TestClient, worker: FakeWorker) -> None:
    browser.post(f"/effects/{SAE}/2")
    asked = {m.type: m.request for m in worker.asked}
    home = browser.app.state.settings.home  # type: ignore[attr-defined]
    build = Build.open(home / "builds" / SAE / "build-1.duckdb")
    latent, bos = build.latent(2), build.meta["bos_token"]
    assert latent is not None
    assert asked["score"].max_acts == (latent.max_act,)
    assert asked["ablate"].contexts
    for ids in asked["ablate"].contexts:
        assert ids[0] == bos
        assert ids.count(bos) == 1
    build.close()


def test_a_latent_that_never_fired_has_no_score_and_nothing_to_ablate(browser: TestClient, worker: FakeWorker) -> None:
    browser.post(f"/effects/{SAE}/{DEAD}")
    assert [m.type for m in worker.asked] == ["score"]
    assert "it never fired" in words_of(browser.get(f"/effects/{SAE}/{DEAD}").text)
