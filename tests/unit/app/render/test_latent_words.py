"""Tests of flags and rules as text."""

from __future__ import annotations

import pytest

from app.render.latent_words import FLAG_NAMES, FLAG_WORDS, rule_words
from sae.store.records import CLASSES, FLAGS, Rule, Token, Vocabulary

INFO = Vocabulary([(5, Token(5, b" self", False, 1)), (6, Token(6, b"\n", False, 1))])


def test_every_flag_has_a_name_and_an_explanation() -> None:
    assert set(FLAG_NAMES) == set(FLAG_WORDS) == {"alive", *FLAGS}


@pytest.mark.parametrize(("kind", "words"), [
    ("token", "fires on"), ("previous", "fires after"), ("next", "fires before")])
def test_a_rule_on_tokens_names_them(kind: str, words: str) -> None:
    found = rule_words(Rule(kind, [5, 6], None, 0.5, 0.5, 0.5), INFO)
    assert found is not None
    assert (found.words, found.labels, found.good) == (words, ["·self", "↵"], True)


def test_a_rule_on_a_class_says_which() -> None:
    found = rule_words(Rule("class", [], "comment", 0.4, 0.6, 0.48), INFO)
    assert found is not None
    assert (found.words, found.labels) == (f"fires {CLASSES['comment']}", [])
    assert not found.good, "too weak for a list"
    assert rule_words(None, INFO) is None
