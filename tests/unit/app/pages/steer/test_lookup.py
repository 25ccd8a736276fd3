"""The prompt that steering begins with."""

from __future__ import annotations

import pytest

from app.pages.steer.lookup import beginning


@pytest.mark.parametrize(("pieces", "text"), [
    ([b"<p>", b" One", b" day"], "<p> One day"),  # a short text is taken whole
    ([b" a"] * 14 + [b" wo", b"rk", b"sh", b"op", b" b"], ("a " * 14).strip()),  # no half of a word
    ([b" a"] * 15 + [b" work", b" b"], "a " * 15 + "work"),
    ([b"a"] * 30, "a" * 16),  # one long word is better than none
    ([b" a"] * 15 + ["日".encode()[:2], "日".encode()[2:]], ("a " * 15).strip()),  # nor half of a character
    ([b"\n", b" "], ""),
])
def test_a_prompt_begins_a_text(pieces: list[bytes], text: str) -> None:
    assert beginning(pieces) == text
