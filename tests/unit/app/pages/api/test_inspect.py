"""Tests of sparse activations: the triplets of a reading."""

from __future__ import annotations

from app.pages.api.inspect import _tokens, _triplets
from app.pages.inspect.view import Reading

READING = Reading(
    [0, 5, 6], [b"", b"a", b"\xe3"], [True, False, False], [1, 2, 0], [[(9, 1.0)], [(3, 2.0), (9, 0.5)], []], [],
    frozenset())


def test_every_firing_is_listed_once() -> None:
    assert _triplets(READING, frozenset()) == {
        "positions": [0, 1, 1], "latents": [9, 3, 9], "activations": [1.0, 2.0, 0.5]}
    assert _triplets(READING, frozenset({3})) == {"positions": [1], "latents": [3], "activations": [2.0]}
    assert _triplets(READING, frozenset({4})) == {"positions": [], "latents": [], "activations": []}


def test_tokens_have_their_text_and_l0() -> None:
    assert [(token.text, token.special, token.l0) for token in _tokens(READING)] == [
        ("", True, 1), ("a", False, 2), ("\N{REPLACEMENT CHARACTER}", False, 0)]
