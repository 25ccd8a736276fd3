"""Tests of a text on the members of a list: activations by position, without special tokens in the counts."""

from __future__ import annotations

from app.pages.lists.run_text import _activations
from app.worker.protocol import TextLatents


def test_activations_are_by_position() -> None:
    read = TextLatents(sae="demo/one", l0=[1, 2, 0], pos=[0, 1, 1], lat=[3, 3, 5], act=[9.0, 2.0, 1.0], ranked=[])
    assert _activations(read, 3, 3) == [9.0, 2.0, 0.0]
    assert _activations(read, 5, 3) == [0.0, 1.0, 0.0]
    assert _activations(read, 7, 3) == [0.0, 0.0, 0.0]
