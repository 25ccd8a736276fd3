"""The latent and the prompt that steering begins with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.pages.steer.example import beginning, example_latent
from sae.store.records import Token, TokenFirings, Vocabulary


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


WORDS = ["node", " node", " Nodes", "nodes", " NODE", "def", " the", "lists", " list", "Listing", "ing", "(", ").", "e",
         " a"]


class FakeBuild:
    """Latents by the tokens that each raises, and how much it raises them; all fire on the token of their number."""

    def __init__(self, raised: dict[int, tuple[list[int], float]], dense: tuple[int, ...] = ()) -> None:
        self.vocabulary = Vocabulary([(i, Token(i, word.encode(), False, 1)) for i, word in enumerate(WORDS)])
        self._raised, self._dense = raised, dense

    def latents(self, sort: str, descending: bool, filters: Any, limit: int) -> Any:
        if "single_token" in filters.flags:
            return SimpleNamespace(rows=[])
        return SimpleNamespace(rows=[
            SimpleNamespace(latent=n, logit_pos=tokens, flags=("dense",) if n in self._dense else ())
            for n, (tokens, _) in self._raised.items()])

    def latent(self, number: int) -> Any:
        tokens, value = self._raised[number]
        return SimpleNamespace(logit_pos=[(token, value) for token in tokens], n_tokens=10,
                               top_tokens=[TokenFirings(number, 9, 1.0, 1.0)])


@pytest.mark.parametrize(("raised", "dense", "latent"), [
    ({5: ([5, 6, 11], 9.0), 6: ([0, 1, 2, 3, 4], 0.5), 7: ([7, 8, 9, 10, 6], 0.6)}, (), 6),  # 0.5 · 5/5 > 0.6 · 3/5
    ({5: ([5, 6, 11], 9.0), 6: ([0, 1, 2, 3, 4], 0.5), 7: ([7, 8, 9, 10, 6], 0.9)}, (), 7),
    ({5: ([5, 6, 11], 9.0), 6: ([0, 1, 2, 3, 4], 0.5)}, (6,), 5),  # a dense one is everywhere
    ({11: ([10, 11, 12], 2.0), 6: ([5, 11], 1.0)}, (), 6),  # no family: the first that fires on a word
    ({11: ([13, 13, 14], 2.0)}, (), 11),
    ({}, (), None),
])
def test_the_example_raises_forms_of_one_word(
    raised: dict[int, tuple[list[int], float]], dense: tuple[int, ...], latent: int | None
) -> None:
    build: Any = FakeBuild(raised, dense)
    assert example_latent(build) == latent
