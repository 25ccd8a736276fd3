"""Tests of text on pages: every character is visible, none is dropped, and none has an effect."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.render.token_text import (
    WINDOWS,
    context_row,
    heat_class,
    signed_class,
    text_pieces,
    token_label,
    token_text,
    visible,
)
from sae.store.page_file import WINDOW
from sae.store.records import Context, Token


def vocabulary(*pieces: bytes) -> dict[int, Token]:
    return {i: Token(i, piece, False, 1) for i, piece in enumerate(pieces)}


def test_heat_is_a_log_scale_of_sixteen_steps() -> None:
    assert heat_class(0, 5) == ""
    assert heat_class(5, 5) == heat_class(9, 5) == "a15"
    assert heat_class(1e-9, 5) == "a0"
    steps = [int(heat_class(i / 1000, 1)[1:]) for i in range(1, 1001)]
    assert steps == sorted(steps)
    assert set(steps) == set(range(16))


def test_signed_colours() -> None:
    values = (2, -2, 0, 0.01)
    assert [signed_class(v, 2) for v in values] == ["b7", "o7", "", "b0"]


def test_newlines_tabs_and_controls_show() -> None:
    assert visible("a\n\tb") == "a↵→b"
    assert visible("\x07\u202e") == "⟨07⟩⟨202E⟩"
    assert visible("naïve 🙂") == "naïve 🙂"


@given(st.text())
def test_nothing_that_is_shown_acts(text: str) -> None:
    shown = visible(text)
    assert len(shown) >= len(text)
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(c) in (
        "RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI", "PDI", "PDF") for c in shown)


def test_token_labels_distinguish_spaces() -> None:
    assert token_label(Token(1, b" the", False, 1)) == "·the"
    assert token_label(Token(1, b"the", False, 1)) == "the"
    assert token_label(Token(1, b"   ", False, 1)) == "···"
    assert token_label(Token(1, b"\n            ", False, 1)) == "↵·×12"
    assert token_text(Token(1, b"\xe2\x80", False, 1)) == "⟨E2 80⟩"
    assert token_text(Token(77, b"", False, 0)) == "⟨77⟩"


def test_a_character_split_over_tokens_is_one_piece() -> None:
    info = vocabulary(b"a", "é".encode()[:1], "é".encode()[1:], b"\n")
    pieces = text_pieces([0, 1, 2, 3], info, [0.0, 0.5, 2.0, 0.0], 2.0, start=40, peak=2)
    assert [p.text for p in pieces] == ["a", "é", "↵"]
    assert pieces[1].css == "a15 peak"
    assert "0.5000" in pieces[1].title
    assert "2.0000" in pieces[1].title
    assert "position 42" in pieces[1].title
    assert pieces[2].breaks == 1
    assert [p.space for p in pieces] == [False, False, True]
    assert pieces[0].css == ""


@given(st.lists(st.tuples(st.binary(max_size=4), st.floats(0, 10)), min_size=1, max_size=40))
def test_every_token_is_in_one_piece(row: list[tuple[bytes, float]]) -> None:
    info = vocabulary(*(piece for piece, _ in row))
    pieces = text_pieces(range(len(row)), info, [value for _, value in row], 10.0)
    said = "\n".join(p.title for p in pieces)
    assert len(said.split("\n")) == len(row)
    assert all(f"position {i}" in said for i in range(len(row)))
    assert all(p.text for p in pieces)


@pytest.mark.parametrize(("window", "shown", "before", "after"), [
    ("short", 43, True, True), ("long", 65, True, True), ("full", 100, False, False)])
def test_windows(window: str, shown: int, before: bool, after: bool) -> None:
    context = Context(
        latent=1, band=0, rank=0, act=3.0, ctx=5, document="x.py", doc_offset=0, start=0, peak=50,
        tokens=[0] * 100, acts=[3.0 if i == 50 else 0.0 for i in range(100)], duplicates=1)
    row = context_row(context, vocabulary(b"x"), 3.0, window)
    assert (len(row.pieces), row.before, row.after) == (shown, before, after)
    assert [p.css for p in row.pieces].count("a15 peak") == 1
    assert row.pieces[row.peak].css == "a15 peak"


def test_what_is_kept_for_a_page_tells_where_its_rows_are_cut() -> None:
    before, after = WINDOWS["short"] or (0, 0)
    assert before < WINDOW[0]
    assert after < WINDOW[1]
    assert all(short <= kept for short, kept in zip(WINDOWS["snippet"] or (), WINDOW, strict=True))
