"""Tokens to text and back, exactly for our own files, and by detection from the contexts for others."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from sae.formats.token_text import has_stand_ins, own_piece, piece_text, stand_in_piece, text_piece
from sae.lm.tokens import byte_of_character

CHARACTER_OF = {b: c for c, b in byte_of_character().items()}


@given(st.binary(min_size=1, max_size=12))
@example(b"\x00")
@example(b"\xe2\x80")
@example(rb"\xe2\x80")
@example("\\xe2é".encode())
@example(b"</script>")
@example("\u202e".encode())
@example("\ud83d".encode("utf-8", "surrogatepass"))
@example("🦊".encode()[:3])
def test_any_token_comes_back(piece: bytes) -> None:
    text = piece_text(piece)
    assert own_piece(text) == piece
    text.encode()  # it can be written as UTF-8


@given(st.lists(st.binary(min_size=1, max_size=6), unique=True, max_size=30))
def test_different_tokens_stay_different(pieces: list[bytes]) -> None:
    assert len({piece_text(p) for p in pieces}) == len(pieces)


@given(st.text(max_size=40), st.integers(1, 5))
def test_stand_ins_of_any_text(text: str, length: int) -> None:
    data = text.encode("utf-8", "replace")
    tokens = ["".join(CHARACTER_OF[b] for b in data[i : i + length]) for i in range(0, len(data), length)]
    assert b"".join(map(stand_in_piece, tokens)) == data
    assert has_stand_ins([tokens]) or not any(c > "\x7f" for c in text)


def test_plain_text_is_not_taken_for_stand_ins() -> None:
    assert not has_stand_ins([["café", " naïve"], ["über", " Straße"], ["plain"]])
    assert not has_stand_ins([["only", " ascii"]])
    assert has_stand_ins([[" caf", "Ã©"], ["¼", "Ŀ", " cut in front"], ["ðŁ", "¦", "Ĭ"], ["ascii"]])


def test_half_a_surrogate_pair_stays_what_it_is() -> None:
    assert text_piece("\ud83d") == b"\xed\xa0\xbd"
    assert own_piece(piece_text(text_piece("\ud83d"))) == b"\xed\xa0\xbd"
