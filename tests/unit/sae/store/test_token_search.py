"""Tests of the search for tokens: against every token looked at one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sae.store.records import Token, Vocabulary
from sae.store.token_search import find_tokens

pieces = st.lists(st.binary(max_size=3), max_size=12, unique=True)


@given(pieces, st.sampled_from(["a", "\0", "ab", " a", "\u00e9", "b\0"]))
def test_every_token_that_contains_the_text_is_found_once(found: list[bytes], text: str) -> None:
    vocabulary = Vocabulary((i, Token(i, piece, False, i)) for i, piece in enumerate(found))
    expected = {i for i, piece in enumerate(found) if text.encode() in piece}
    assert {token.token for token in find_tokens(vocabulary, text, 100)} == expected


def test_equal_ones_come_first_then_spaces_then_beginnings() -> None:
    words = [b"xself", b"selfish", b" self", b"self", b"selfless", b"other"]
    vocabulary = Vocabulary((i, Token(i, piece, False, i)) for i, piece in enumerate(words))
    assert [token.piece for token in find_tokens(vocabulary, "self", 10)] == [
        b"self", b" self", b"selfless", b"selfish", b"xself"]
    assert len(find_tokens(vocabulary, "self", 2)) == 2
    assert find_tokens(vocabulary, "", 10) == []
