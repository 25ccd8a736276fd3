"""Tests of explanations as a latent's page shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.db.engine import SessionFactory
from app.db.tables import ExplanationScore, LatentExplanation, User
from app.pages.explore import explanation_views
from app.pages.explore.explanation_views import ExplainedLatents, explanations_json, explanations_of, score_line
from sae.store.build import Build
from tests.unit.app.pages.explore.records import sae

ONE = sae("one")


def score(scorer: str = "detection", value: float = 0.75, **changes: Any) -> ExplanationScore:
    return ExplanationScore(**{
        "sae_id": ONE.id, "id": f"{scorer}-{changes.get('explanation_id')}", "explanation_id": "e", "latent": 3,
        "scorer": scorer, "model": "", "value": value, "n": 9, "created": 1.0, "details": {}, **changes})


def explanation(number: str, text: str, **changes: Any) -> LatentExplanation:
    return LatentExplanation(**{
        "sae_id": ONE.id, "id": number, "latent": 3, "text": text, "kind": "model", "author": "", "method": "",
        "model": "", "prompt_version": "", "run": "", "created": 1.0, "chosen": False, "in_file": True, **changes})


def test_a_score_has_its_interval_and_its_f1() -> None:
    line = score_line(score(low=0.5, high=0.875, f1=0.8))
    assert (line.name, line.value, line.interval, line.share, line.notes) == (
        "detection", "0.75", "0.50 to 0.88", 0.75, ["F1 0.80"])
    assert score_line(score()).interval == ""
    assert score_line(score("new")).said == "A score", "of a later version"


@pytest.mark.parametrize(("value", "share"), [(-0.25, 0.0), (0.5, 0.5), (3.0, 1.0)])
def test_a_bar_stays_in_its_box(value: float, share: float) -> None:
    assert score_line(score("simulation", value)).share == share


def test_notes_say_what_a_score_rests_on() -> None:
    details = {"sorts": {"near": {"balanced_accuracy": 0.5}, "other": {"auc": 0.25}}, "unparsable": 2,
               "verified": False, "wrong": [{"text": "x", "sort": "near", "answer": True}, "damaged"]}
    line = score_line(score(details=details))
    assert line.notes == ["against near miss: 0.50", "against other: 0.25", "2 answers could not be read",
                          "texts without firings were not verified"]
    assert line.wrong == [{"text": "x", "sort": "near miss", "answer": True}]
    rule = score_line(score("rule", f1=0.9, details={"precision": 0.9, "recall": 0.8}))
    assert rule.notes == ["precision 90%, recall 80%"], "its value is the F1"
    assert score_line(score(details={"sorts": ["damaged"]})).notes == []


def test_explanations_say_who_made_them_and_who_may_remove_them(sessions: SessionFactory) -> None:
    with sessions() as db:
        db.add_all([
            explanation("a", "by a model", model="m", method="saescope", prompt_version="p-1"),
            explanation("b", "mine", kind="person", author="ada", method="page", chosen=True, in_file=False),
            explanation("c", "found", kind="rule"), explanation("d", "unsigned", kind="person"),
            explanation("e", "elsewhere", latent=4),
            score(explanation_id="a"), score("intruder", 0.8, explanation_id="")])
        db.commit()
        found = explanations_of(db, ONE, 3, User(name="ada", is_admin=False))
        assert {line.text: line.made for line in found.lines} == {
            "mine": "by ada", "by a model": "m · saescope · p-1", "found": "found by counting",
            "unsigned": "by a person"}
        assert [(line.text, line.chosen, line.removable) for line in found.lines][:2] == [
            ("mine", True, True), ("by a model", False, False)]
        assert [line.name for line in found.latent_scores] == ["intruder"]
        assert not any(line.removable for line in explanations_of(db, ONE, 3).lines)
        rows = explanations_json(db, ONE, 3)
        assert [row["id"] for row in rows][:2] == ["b", "a"]
        assert rows[1]["scores"][0]["value"] == 0.75
        assert explanations_json(db, ONE, 9) == []


def test_only_good_explanations_explain(
    sessions: SessionFactory, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = np.full(build.n_latents, np.nan, np.float32)
    rules[[3, 5, 9]] = 0.7, 1.0, 0.2
    monkeypatch.setattr(explanation_views, "rule_scores", lambda build: rules)
    with sessions() as db:
        assert [(row.kind, row.n) for row in ExplainedLatents.read(db, build, ONE).shares()] == [("rule", 2)]
        db.add_all([explanation("a", "good"), score(explanation_id="a", f1=0.7),
                    explanation("b", "weak", latent=4), score(explanation_id="b", latent=4, f1=0.69),
                    explanation("c", "unscored", latent=6)])
        db.commit()
        found = ExplainedLatents.read(db, build, ONE)
        shares = {row.kind: row for row in found.shares()}
    assert {kind: row.n for kind, row in shares.items()} == {"rule": 2, "model": 1, "any": 2}
    assert found.best[[3, 4, 5, 9]] == pytest.approx([0.7, 0.69, 1.0, 0.2])
    assert np.isfinite(found.best).sum() == 4
    assert np.isfinite(rules).sum() == 3, "the rules are shared by all pages, and stay as they are"
    assert {bar.low: bar.n for bar in explanation_views._bars(found.best) if bar.n} == {
        0.2: 1, 0.65: 1, 0.7: 1, 0.95: 1}
    drawn = str(found.chart())
    assert "Latents by the score of their best explanation" in drawn
    assert ExplainedLatents({}, 5, build).chart() is None
    assert shares["any"].share == pytest.approx(2 / build.counts()["alive"])
