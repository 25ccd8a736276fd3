"""Every byte of a token is kept, and characters that can be shown whole are never shown in halves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sae.lm.tokens import byte_of_character, piece_bytes, spans


def test_the_byte_alphabet_is_a_bijection() -> None:
    table = byte_of_character()
    assert sorted(table.values()) == list(range(256))
    assert table["Ġ"] == ord(" ")
    assert table["Ċ"] == ord("\n")


def test_pieces_of_both_alphabets() -> None:
    assert piece_bytes("Ġdef", byte_level=True) == b" def"
    assert piece_bytes("Ã", byte_level=True) == b"\xc3"
    assert piece_bytes("<|endoftext|>", byte_level=True) == b"<|endoftext|>"
    assert piece_bytes("▁once", byte_level=False) == b" once"
    assert piece_bytes("<0x0A>", byte_level=False) == b"\n"


@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), st.booleans()), min_size=1))
def test_characters_split_over_tokens_are_put_together_again(words: list[tuple[str, bool]]) -> None:
    """Split text as byte-level vocabularies do: a token is whole characters, or one byte of a character."""
    encodable = [(word.encode("utf-8", "replace"), split) for word, split in words]
    pieces = [part for raw, split in encodable for part in ([bytes([b]) for b in raw] if split else [raw])]
    found = spans(pieces)
    assert "".join(span.text for span in found) == b"".join(pieces).decode()
    assert found[-1].end == len(pieces)


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=12))
def test_no_token_is_dropped_whatever_the_bytes(pieces: list[bytes]) -> None:
    covered = [i for span in spans(pieces) for i in range(span.start, span.end)]
    assert covered == list(range(len(pieces)))


def test_half_a_character_that_stays_half_is_shown_as_bytes() -> None:
    assert [(s.text, s.start, s.end) for s in spans([b"\xe2\x80", b"a"])] == [("⟨E2 80⟩", 0, 1), ("a", 1, 2)]
