"""Excerpts: where they are cut, what is marked in them, and which half they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from sae.explain.excerpts import AFTER, BEFORE, MARKS, Excerpt, cut, cut_out, in_scoring_half
from sae.store.records import Token, Vocabulary


def test_marks_divide_no_character() -> None:
    pieces = ("é".encode()[:1], "é".encode()[1:], b" << ", b"x", b"y")
    excerpt = Excerpt("d", 0, 0, (1, 2, 3, 4, 5), pieces, (0.0, 1.0, 0.0, 2.0, 2.0), 1)
    open_, close = MARKS
    assert excerpt.text(excerpt.active) == f"{open_}é{close} << {open_}xy{close}"
    assert excerpt.text() == "é << xy"
    assert excerpt.words() == [("é", 1.0), (" << ", 0.0), ("x", 2.0), ("y", 2.0)]


@pytest.mark.parametrize("name", ["a.py", "b.py", ""])
def test_a_document_is_always_in_the_same_half(name: str) -> None:
    assert in_scoring_half(name) == in_scoring_half(name)
    share = np.mean([in_scoring_half(f"document {i}") for i in range(2000)])
    assert 0.45 < share < 0.55


def test_an_excerpt_is_cut_around_its_centre_without_special_tokens() -> None:
    vocabulary = Vocabulary([(0, Token(0, b"<s>", True, 0)), *((i, Token(i, b"x", False, 1)) for i in range(1, 60))])
    whole = list(range(60))
    found = cut(whole, [float(i) for i in whole], 30, vocabulary, "d", 7, 100)
    assert list(found.tokens) == list(range(30 - BEFORE, 30 + AFTER + 1))
    assert (found.start, found.tokens[found.centre], found.acts[found.centre]) == (110, 30, 30.0)
    first = cut(whole, [0.0] * 60, 2, vocabulary, "d", 7, 0)
    assert (first.start, first.tokens[0], first.centre) == (1, 1, 1)
    assert cut(whole, [0.0] * 60, 0, vocabulary, "d", 7, None).tokens[0] == 0  # the centre itself stays
    assert cut([99], [1.0], 0, vocabulary, "d", 7, None).pieces == ("⟨99⟩".encode(),)


def test_copies_of_a_text_are_cut_out() -> None:
    one, copy, other = (Excerpt(name, 0, 0, tokens, (b"x", b"y"), (0.0, 0.0), 0)
                        for name, tokens in (("a", (1, 2)), ("b", (1, 2)), ("c", (1, 3))))
    assert cut_out([copy, other], [one]) == [other]
