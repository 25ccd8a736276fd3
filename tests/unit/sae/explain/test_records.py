"""Records of explanations and scores: their ids, their JSON, and which score counts."""

from __future__ import annotations

import json

import pytest

from sae.explain.records import Explanation, Score, from_json, headline, quality, to_json


def test_the_headline_is_the_most_telling_score() -> None:
    scores = {name: Score(3, name, 0.5, 1, f1=f1) for name, f1 in (("rule", 0.9), ("detection", 0.8), ("output", None))}
    best = headline(scores)
    assert best is not None
    assert (best.scorer, quality(best)) == ("detection", 0.8)
    assert quality(scores["output"]) == 0.5
    assert headline({"intruder": Score(3, "intruder", 1.0, 1)}) is None


def test_the_id_of_a_run_does_not_depend_on_the_text() -> None:
    assert Explanation(3, "a", "model", run="r").id == Explanation(3, "b", "model", run="r").id
    assert Explanation(3, "a", "person").id != Explanation(3, "b", "person").id
    assert Explanation(3, "a", "person").id != Explanation(4, "a", "person").id
    assert Explanation(3, "a", "person", id="given").id == "given"


def test_the_id_of_a_score_does_not_depend_on_its_value() -> None:
    assert Score(3, "rule", 0.1, 5).id == Score(3, "rule", 0.9, 7).id
    assert Score(3, "rule", 0.1, 5).id != Score(3, "rule", 0.1, 5, model="m").id


@pytest.mark.parametrize("record", [
    Explanation(3, "é", "person", "ada"), Score(3, "detection", 0.5, 8, "id", 0.4, 0.6, 0.7, details={"a": 1})])
def test_a_record_comes_back_from_its_json(record: Explanation | Score) -> None:
    value = json.loads(json.dumps(to_json(record)))
    assert from_json(value) == record
    for row in value.values():
        row["added later"] = 1
    assert from_json(value) == record


@pytest.mark.parametrize("value", [
    None, [], {}, {"explanation": []}, {"explanation": {"latent": 3}},
    {"explanation": {"latent": -1, "text": "a", "kind": "person"}},
    {"explanation": {"latent": True, "text": "a", "kind": "person"}},
    {"explanation": {"latent": 3, "text": 5, "kind": "person"}},
    {"explanation": {"latent": 3, "text": "a", "kind": "oracle"}},
    {"score": {"latent": 3, "scorer": "rule", "value": "x", "n": 1}},
    {"score": {"latent": 3, "scorer": "rule", "value": 0.5, "n": 1, "low": "x"}},
    {"score": {"latent": 3, "scorer": "rule", "value": 0.5, "n": 1, "details": None}}])
def test_what_is_no_record_is_none(value: object) -> None:
    assert from_json(value) is None
