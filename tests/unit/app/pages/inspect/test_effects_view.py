"""Tests of a latent's effects: the messages to the worker, and the figures of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.engine import SessionFactory
from app.db.tables import LatentEffect, Sae
from app.pages.inspect.effects_view import effect_view, store_ablation, store_scores
from app.worker.protocol import Ablated, Effect, LatentScore, NextToken
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


# ---- without a page


def row(**changes: Any) -> LatentEffect:
    return LatentEffect(**{"sae_id": SAE, "build_id": "b", "latent": 2, "score": None, "tokens": None,
                           "ablation": None, **changes})


def effect(*ce_at: float) -> Effect:
    return Effect(ce_at=list(ce_at), kl_at=[0.5] * len(ce_at), ce_after=[0.0] * len(ce_at), kl_after=[0.0] * len(ce_at))


def ablated(**changes: Any) -> dict[str, Any]:
    return Ablated(**{
        "latent": 2, "firings": [3, 0, 1], "effect": effect(0.25, 9.0, 0.75), "sparsity": 0.5, "random_sparsity": None,
        "random": [effect(0.125, 9.0, 0.125), effect(0.0, 9.0, 0.5)],
        "tokens": [NextToken(id=5, piece=" x", baseline=0.75, steered=0.25)], **changes}).model_dump(exclude={"type"})


@pytest.fixture(scope="module")
def build(home: Path) -> Iterator[Build]:
    build = Build.open(home / "builds" / SAE / "build-1.duckdb")
    yield build
    build.close()


def test_what_was_not_measured_is_empty(build: Build) -> None:
    view = effect_view(row(), build)
    assert (view.measured, view.lines, view.firings, view.moved) == (False, [], 0, [])
    scored = effect_view(row(score=0.5, tokens={"ids": [400]}), build)
    assert (scored.measured, scored.score, len(scored.score_tokens)) == (True, 0.5, 1)


def test_effects_are_means_over_contexts_in_which_the_latent_fires(build: Build) -> None:
    view = effect_view(row(ablation=ablated()), build)
    first = view.lines[0]
    assert (first.name, first.latent, first.random, first.random_most) == (
        "ΔCE where it fires", 0.5, pytest.approx(0.1875), 0.25)
    assert (view.contexts, view.firings, view.sparsity, view.random_sparsity) == (3, 4, 0.5, None)
    assert [(t.label, t.before, t.after, t.css) for t in view.moved] == [("·x", 0.75, 0.25, "o4")]


def test_a_latent_that_fired_nowhere_has_no_effect(build: Build) -> None:
    view = effect_view(row(ablation=ablated(firings=[0, 0, 0], random=[])), build)
    assert {(line.latent, line.random, line.random_most) for line in view.lines} == {(0.0, 0.0, 0.0)}


def test_measures_are_kept_with_the_build(sessions: SessionFactory) -> None:
    sae = Sae(id=SAE, current_build="b")
    with sessions() as db:
        store_scores(db, sae, [LatentScore(latent=2, score=0.5, tokens=[400]), LatentScore(
            latent=3, score=None, tokens=[])])
        store_ablation(db, sae, Ablated.model_validate(ablated()))
        kept = {one.latent: one for one in db.query(LatentEffect)}
        assert (kept[2].score, kept[2].tokens, kept[2].build_id) == (0.5, {"ids": [400]}, "b")
        assert kept[2].ablation == ablated()
        assert (kept[3].score, kept[3].tokens, kept[3].ablation) == (None, {"ids": []}, None)
