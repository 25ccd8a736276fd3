"""The scorers that ask a model, on constructed examples, against values computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae.explain.chat import Answer
from sae.explain.examples import Examples
from sae.explain.excerpts import MARKS
from sae.explain.judging import Judge, detection, fuzzing, intruder
from sae.explain.templates import Messages, load_templates
from tests.unit.sae.explain.cats import EXPLANATION, examples, judge, score_of, texts_of
from tests.unit.sae.explain.conftest import Said


def test_a_perfect_explanation_scores_one(tmp_path: Path) -> None:
    found = score_of(detection(judge(tmp_path, lambda text: "cat" in text), EXPLANATION, examples()))
    assert (found.value, found.f1, found.low, found.high, found.n) == (1.0, 1.0, 1.0, 1.0, 18)
    assert found.details["auc"] == 1.0
    assert found.details["wrong"] == []
    assert {sort: row["balanced_accuracy"] for sort, row in found.details["sorts"].items()} == {
        "random": 1.0, "similar": 1.0, "near": 1.0}
    marks = judge(tmp_path / "f", lambda text: f"{MARKS[0]} cat{MARKS[1]}" in text)
    assert score_of(fuzzing(marks, EXPLANATION, examples())).value == 1.0


@pytest.mark.parametrize("constant", [True, False])
def test_a_constant_answer_scores_a_half(tmp_path: Path, constant: bool) -> None:
    for number, scorer in enumerate((detection, fuzzing)):
        found = score_of(scorer(judge(tmp_path / str(number), lambda text: constant), EXPLANATION, examples()))
        assert found.value == 0.5
        assert found.details["auc"] == 0.5


def test_each_sort_of_negatives_is_reported_apart(tmp_path: Path) -> None:
    found = score_of(detection(judge(tmp_path, lambda text: "cat" in text or "lion" in text), EXPLANATION, examples()))
    assert found.value == pytest.approx((1 + 8 / 12) / 2)
    assert found.f1 == pytest.approx(2 * 6 / (6 + 10))
    assert found.details["precision"] == pytest.approx(6 / 10)
    assert {sort: row["balanced_accuracy"] for sort, row in found.details["sorts"].items()} == {
        "random": 1.0, "similar": 1.0, "near": 0.5}
    assert {wrong["sort"] for wrong in found.details["wrong"]} == {"near"}
    assert len(found.details["wrong"]) == 4


def test_answers_that_cannot_be_read_count_as_wrong_and_are_counted(tmp_path: Path) -> None:
    said = Said(tmp_path, lambda messages: "I do not know")
    found = score_of(detection(Judge(said, load_templates()), EXPLANATION, examples()))
    assert (found.value, found.f1) == (0.0, 0.0)
    assert found.details["unparsable"] == 18
    assert len(said.asked) == 2 * 4  # 18 texts by fives; each answer is asked for once more
    assert "cannot be read" in said.asked[1][-1]["content"]


def test_a_second_answer_that_can_be_read_counts(tmp_path: Path) -> None:
    def brain(messages: Messages) -> str:
        if messages[-2]["role"] != "assistant":
            return "Let me think"
        return json.dumps({"answers": [int("cat" in t) for t in texts_of(messages[:2])]})

    found = score_of(detection(Judge(Said(tmp_path, brain), load_templates()), EXPLANATION, examples()))
    assert (found.value, found.details["unparsable"]) == (1.0, 0)


def test_too_few_examples_have_no_score(tmp_path: Path) -> None:
    assert detection(judge(tmp_path, bool), EXPLANATION, examples(2)) is None
    assert detection(judge(tmp_path, bool), EXPLANATION, Examples(examples().positives, [], True)) is None


def test_probabilities_order_the_texts(tmp_path: Path) -> None:
    """Every text is answered with 1, but the probabilities of the cats are higher."""
    class Unsure(Said):
        def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
            texts = texts_of(messages)
            p = [0.9 if "cat" in text else 0.6 for text in texts]
            return Answer(json.dumps({"answers": [1] * len(texts)}), 1, 1, [("1", {"1": x, "0": 1 - x}) for x in p])

    found = score_of(detection(Judge(Unsure(tmp_path, lambda m: ""), load_templates()), EXPLANATION, examples()))
    assert (found.value, found.details["auc"], found.details["auc_from"]) == (0.5, 1.0, "logprobs")


def test_the_intruder_is_found_by_its_text(tmp_path: Path) -> None:
    def find(messages: Messages) -> str:
        return json.dumps({"answer": 1 + ["cat" in text for text in texts_of(messages)].index(False)})

    found = score_of(intruder(Judge(Said(tmp_path, find), load_templates()), 3, examples()))
    assert (found.value, found.explanation, found.n) == (1.0, "", 6)
    never = score_of(intruder(Judge(Said(tmp_path / "2", lambda m: "none"), load_templates()), 3, examples()))
    assert (never.value, never.details["unparsable"]) == (0.0, 6)
