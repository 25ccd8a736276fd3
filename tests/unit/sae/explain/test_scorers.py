"""Scorers on constructed examples, against values computed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sae.explain.chat import Answer
from sae.explain.embedding import embedding
from sae.explain.examples import ACTIVE, Example, Examples
from sae.explain.excerpts import MARKS, Excerpt
from sae.explain.judging import Judge, detection, fuzzing, intruder
from sae.explain.records import Explanation, Score, headline, quality
from sae.explain.simulation import simulation
from sae.explain.templates import Messages, load_templates
from tests.unit.sae.explain.conftest import Said

EXPLANATION = Explanation(3, "the word cat", "model")


def excerpt(number: int, words: Sequence[str], fires: Sequence[int] = ()) -> Excerpt:
    pieces = tuple(f" {word}".encode() for word in (f"n{number}", *words))
    acts = tuple(float(4 * (i - 1 in fires)) for i in range(len(pieces)))
    return Excerpt(f"d{number}", number, 0, tuple(range(len(pieces))), pieces, acts, 1)


def examples(n: int = 6) -> Examples:
    """Make texts with a cat that fires, and without; the near misses are about a lion."""
    cats = [excerpt(i, ["a", "cat", "sat"], [1]) for i in range(n)]
    others = {"random": ["a", "dog", "sat"], "similar": ["a", "horse", "ran"], "near": ["a", "lion", "sat"]}
    return Examples(
        [Example(cat, ACTIVE, cat.active) for cat in cats],
        [Example(excerpt(100 * k + i, words), sort, frozenset({3}))
         for k, (sort, words) in enumerate(others.items(), 1) for i in range(4)], True)


def texts_of(messages: Messages) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", messages[-1]["content"], re.MULTILINE)


def judge(tmp_path: Path, decide: Callable[[str], object]) -> Judge:
    def brain(messages: Messages) -> str:
        return json.dumps({"answers": [int(bool(decide(text))) for text in texts_of(messages)]})

    return Judge(Said(tmp_path, brain), load_templates())


def score_of(found: Score | None) -> Score:
    assert found is not None
    return found


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


class Simulating(Said):
    """A model that predicts 10 on words that `decide` chooses; without probabilities if they are not asked for."""

    def __init__(self, folder: Path, decide: Callable[[str], bool], with_logprobs: bool = True) -> None:
        super().__init__(folder, lambda m: "")
        self.decide, self.with_logprobs = decide, with_logprobs

    def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
        words = re.findall(r"^\d+\t(.*)$", messages[-1]["content"], re.MULTILINE)
        levels = [10 * self.decide(word) for word in words]
        options = [(str(n), {str(n): 0.5, str(10 - n): 0.0, "x": 0.5}) for n in levels]
        return Answer(json.dumps({"answers": levels}), 1, 1, options if self.with_logprobs else None)


def test_simulation_is_the_correlation_with_the_activations(tmp_path: Path) -> None:
    def value(folder: str, decide: Callable[[str], bool]) -> Score:
        return score_of(simulation(Judge(Simulating(tmp_path / folder, decide), load_templates()), EXPLANATION,
                                   examples()))

    perfect = value("a", lambda word: "cat" in word)
    assert perfect.value == pytest.approx(1.0)
    assert perfect.n == 8 * 4
    assert value("b", lambda word: False).value == 0.0
    # 8 texts of 4 words: 6 cats fire; the prediction is the first word of each text
    real = np.array(([0, 0, 1, 0] * 6) + [0] * 8, dtype=float)
    first = np.array([1, 0, 0, 0] * 8, dtype=float)
    assert value("c", lambda word: "n" in word).value == pytest.approx(float(np.corrcoef(real, first)[0, 1]))


def test_simulation_needs_probabilities(tmp_path: Path) -> None:
    model = Simulating(tmp_path, lambda word: True, with_logprobs=False)
    assert simulation(Judge(model, load_templates()), EXPLANATION, examples()) is None


class Letters:
    """Embeds a text by its letters."""

    name = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def test_embedding_is_the_auc_of_the_cosine() -> None:
    found = score_of(embedding(Letters(), EXPLANATION, examples()))
    rows = Letters().encode(["text about: the word cat", *(one.excerpt.text() for one in (
        *examples().positives, *examples().negatives))])
    cosine = rows[1:] @ rows[0]
    wins = [(p > n) + (p == n) / 2 for p in cosine[:6] for n in cosine[6:]]
    assert found.value == pytest.approx(sum(wins) / len(wins), abs=1e-9)
    assert set(found.details["sorts"]) == {"random", "similar", "near"}


def test_the_headline_is_the_most_telling_score() -> None:
    scores = {name: Score(3, name, 0.5, 1, f1=f1) for name, f1 in (("rule", 0.9), ("detection", 0.8), ("output", None))}
    best = headline(scores)
    assert best is not None
    assert (best.scorer, quality(best)) == ("detection", 0.8)
    assert quality(scores["output"]) == 0.5
    assert headline({"intruder": Score(3, "intruder", 1.0, 1)}) is None
