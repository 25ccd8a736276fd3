"""Answers as models give them: fenced, after a chain of thought, broken."""

from __future__ import annotations

import pytest

from sae.explain.answers import Unparsable, choice_of, explanation_of, flags_of, json_of, levels_of


@pytest.mark.parametrize("text", [
    '{"explanation": "the keyword raise."}',
    '```json\n{"explanation": "the keyword raise"}\n```',
    '<think>Maybe {"explanation": "no"}?</think> {"explanation": "the  keyword raise",}',
    "[EXPLANATION]: the keyword raise.",
    "Explanation: the keyword raise",
    '"the keyword raise"',
    'Sure! {"explanation": "first"} No, better: {"explanation": "the keyword raise"}',
])
def test_an_explanation_is_found(text: str) -> None:
    assert explanation_of(text) == "the keyword raise"


def test_quotes_around_a_part_stay() -> None:
    assert explanation_of('{"explanation": "the token \\" raise\\""}') == 'the token " raise"'
    assert explanation_of('{"explanation": "\\" a\\" or \\" b\\"."}') == '" a" or " b"'


@pytest.mark.parametrize("text", [
    "", "{", '{"explanation": 3}', '{"explanation": " "}', "one\ntwo", "<think>endless", '{"other": "text"}',
    "x " * 150,
])
def test_what_is_no_explanation_is_refused(text: str) -> None:
    with pytest.raises(Unparsable):
        explanation_of(text)


@pytest.mark.parametrize("text", [
    '{"answers": [1, 0, 1]}', "[1, 0, 1]", '```\n{"answers": [true, false, true]}\n```',
    'ok: {"answers": [1,0,1,]} done',
])
def test_decisions_are_found(text: str) -> None:
    assert flags_of(text, 3) == [True, False, True]


@pytest.mark.parametrize("text", [
    '{"answers": [1, 0]}', '{"answers": [1, 0, 2]}', "None", '{"answers": "1, 0, 1"}', '{"answers": [1, 0, "1"]}',
    '{"answers": [1, 0, 1', "{" * 5000, "[" * 100_000,
])
def test_what_is_no_list_of_decisions_is_refused(text: str) -> None:
    with pytest.raises(Unparsable):
        flags_of(text, 3)


def test_levels_and_choices_are_within_their_limits() -> None:
    assert levels_of('{"answers": [0, 10, 2.5]}', 3) == [0, 10, 2.5]
    assert choice_of('{"answer": 2}', 5) == choice_of('{"answer": "2"}', 5) == 1
    for wrong in ('{"answers": [0, 11, 2]}', '{"answers": [0, true, 2]}'):
        with pytest.raises(Unparsable):
            levels_of(wrong, 3)
    for wrong in ('{"answer": 0}', '{"answer": 6}', '{"answer": true}', "{}"):
        with pytest.raises(Unparsable):
            choice_of(wrong, 5)


def test_the_last_object_counts() -> None:
    assert json_of('{"a": 1} {"a": {"b": 2}} text') == {"a": {"b": 2}}
