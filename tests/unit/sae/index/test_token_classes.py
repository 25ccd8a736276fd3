"""Classes of positions, against reading the text by eye."""

from __future__ import annotations

import pytest
import torch

from sae.index.token_classes import TokenClasses
from sae.store.records import CLASSES

PIECES = [b"<s>", b"def", b" f", b"(", b"a", b"b1", b"):", b"\n", b"    ", b'"""', b"Doc", b" 12", b"#", b"\xe2\x82",
          b" x=", b"'''"]


def positions(name: str, *tokens: bytes) -> list[int]:
    """Return the positions (BOS is 0) at which a class holds."""
    ids = torch.tensor([[0, *(PIECES.index(token) for token in tokens)]])
    return TokenClasses.of(PIECES).at(ids)[list(CLASSES).index(name), 0].nonzero().squeeze(1).tolist()


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("number", [b" 12", b"b1", b"a"], [1]),
    ("punctuation", [b"(", b"a", b"):", b"\n", b"#", b"\xe2\x82"], [1, 3, 5]),
    ("capital", [b"Doc", b"def"], [1]),
    ("newline", [b"a", b"\n"], [2]),
    ("space", [b"\n", b"    ", b" f"], [1, 2]),
    ("inside_word", [b"a", b"b1", b" f", b"a", b"("], [2, 4]),
    ("line_start", [b"a", b"\n", b"\n", b"    ", b"def"], [4]),
    ("comment", [b"a", b"#", b"Doc", b"a", b"\n", b"def", b"\n"], [3, 4]),
    ("triple_quotes", [b"def", b'"""', b"Doc", b"a", b'"""', b"\n"], [3, 4, 5]),
    ("brackets", [b"):", b"def", b"(", b"a", b"(", b"b1", b"):", b"a", b"):", b"a"], [4, 5, 6, 7, 8, 9]),
    ("context_start", [b"a", b"a"], [1]),
])
def test_where_a_class_holds(name: str, text: list[bytes], expected: list[int]) -> None:
    assert positions(name, *text) == expected


def test_every_class_has_a_description() -> None:
    assert TokenClasses.of(PIECES).at(torch.zeros(2, 5, dtype=torch.int64)).shape == (len(CLASSES), 2, 5)
    assert all(CLASSES.values())
