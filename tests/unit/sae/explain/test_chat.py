"""Asking a model: the cache, the budget, a second attempt, and probabilities of numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae.explain.answers import Unparsable, explanation_of
from sae.explain.budget import BudgetSpent
from sae.explain.chat import Answer, RequestRefused, ask_for, expected_values, probability
from sae.explain.templates import Messages, load_templates
from tests.unit.sae.explain.conftest import Said

MESSAGES = [{"role": "user", "content": "What is it?"}]


def with_options(*options: tuple[str, dict[str, float]]) -> Answer:
    return Answer("", 1, 1, list(options))


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    said = Said(tmp_path, lambda messages: "yes")
    assert said.ask(MESSAGES, 50) == said.ask(MESSAGES, 50)
    assert len(said.asked) == 1
    assert said.budget.tokens == 110
    said.ask(MESSAGES, 51)
    said.ask(MESSAGES, 50, logprobs=True)
    assert len(said.asked) == 3  # the parameters are a part of the request


def test_a_request_that_could_exceed_the_budget_is_not_made(tmp_path: Path) -> None:
    said = Said(tmp_path, lambda messages: "yes", max_tokens=50)
    with pytest.raises(BudgetSpent):
        said.ask(MESSAGES, 60)
    assert (said.asked, len(said.cache)) == ([], 0)


def test_a_failed_request_gives_its_share_of_the_budget_back(tmp_path: Path) -> None:
    fails = iter([True, False])

    def brain(messages: Messages) -> str:
        if next(fails):
            raise RequestRefused("too long")
        return "yes"

    said = Said(tmp_path, brain, max_tokens=150)
    with pytest.raises(RequestRefused):
        said.ask(MESSAGES, 100)
    assert said.ask(MESSAGES, 100).text == "yes"


def test_an_answer_comes_back_from_its_json() -> None:
    for answer in (Answer("é", 3, 4, [("1", {"1": 0.9, "0": 0.1})], True), Answer("", 0, 0)):
        assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_what_cannot_be_parsed_is_asked_once_more_with_the_reason(tmp_path: Path) -> None:
    texts = iter(["", '{"explanation": "a cat"}'])
    said = Said(tmp_path, lambda messages: next(texts))
    found, answer = ask_for(said, MESSAGES, explanation_of, load_templates()["retry"], 50)
    assert (found, answer.text) == ("a cat", '{"explanation": "a cat"}')
    assert said.asked[1][: len(MESSAGES) + 1] == [*MESSAGES, {"role": "assistant", "content": "(empty)"}]
    never = Said(tmp_path / "never", lambda messages: "")
    with pytest.raises(Unparsable):
        ask_for(never, MESSAGES, explanation_of, load_templates()["retry"], 50)
    assert len(never.asked) == 2


def test_expected_values_are_of_the_last_numbers() -> None:
    answer = with_options(("1", {"1": 1.0}), (" 1", {" 1": 0.6, "0": 0.2, "x": 0.2}), (",", {}), ("0", {"0": 0.5}))
    assert expected_values(answer, 2, (0, 1)) == [pytest.approx(0.75), 0.0]
    assert expected_values(answer, 3, (0, 1)) == [1.0, pytest.approx(0.75), 0.0]
    assert expected_values(answer, 4, (0, 1)) is None  # there are three numbers
    assert expected_values(with_options(("1", {"x": 1.0})), 1, (0, 1)) is None
    assert expected_values(Answer("1", 1, 1), 1, (0, 1)) is None


def test_a_careless_logarithm_does_not_overflow() -> None:
    assert probability(0.0) == probability(1000.0) == 1.0
    assert probability(-1.0) == pytest.approx(0.3679, abs=1e-4)
    assert 0 < probability(float("-inf")) < 1e-40
