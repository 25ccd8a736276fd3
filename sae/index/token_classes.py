"""Classes of positions that a rule may name, by the token or by its surroundings.

A class is a plain definition over the tokens of one context, computed for whole batches.  It never
depends on text outside the context.  Shapes: V vocabulary, P contexts, S positions, C classes,
B tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sae.store.records import CLASSES


@dataclass(frozen=True)
class TokenClasses:
    """Properties of every vocabulary entry that the classes need, each a [V] tensor."""

    number: Tensor
    punctuation: Tensor
    capital: Tensor
    newline: Tensor
    space: Tensor
    word_first: Tensor  # the first character belongs to a word
    word_last: Tensor
    hash_sign: Tensor
    triple: Tensor  # number of triple quotes
    brackets: Tensor  # opening minus closing brackets

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> TokenClasses:
        """Compute the properties from the bytes of every token; parts of characters count as letters."""
        return cls._of(tuple(pieces))

    @classmethod
    @lru_cache(maxsize=1)  # every encoder of a build asks for the same vocabulary
    def _of(cls, pieces: tuple[bytes, ...]) -> TokenClasses:
        texts = [piece.decode("utf-8", "replace") for piece in pieces]
        bare = [text.strip() for text in texts]
        word = [[c.isalnum() or c in "_\ufffd" for c in (text[:1], text[-1:])] if text else [False, False]
                for text in texts]
        return cls(
            number=torch.tensor([text.isdigit() for text in bare]),
            punctuation=torch.tensor([bool(text) and not any(c.isalnum() or c in "_\ufffd" for c in text)
                                      for text in bare]),
            capital=torch.tensor([text[:1].isupper() for text in bare]),
            newline=torch.tensor(["\n" in text for text in texts]),
            space=torch.tensor([bool(text) and not text.strip() for text in texts]),
            word_first=torch.tensor([first for first, _ in word]),
            word_last=torch.tensor([last for _, last in word]),
            hash_sign=torch.tensor(["#" in text for text in texts]),
            triple=torch.tensor([text.count('"""') + text.count("\'\'\'") for text in texts]),
            brackets=torch.tensor([text.count("(") - text.count(")") for text in texts]))

    def at(self, tokens_PS: Tensor) -> Tensor:
        """Return which classes each position belongs to, bool [C, P, S], in the order of `CLASSES`."""
        position_S = torch.arange(tokens_PS.shape[1])
        newline_PS = self.newline[tokens_PS]
        before_PS = torch.roll(tokens_PS, 1, dims=1)
        has_before_S = position_S > 1  # BOS at 0 is not text
        last_line_PS = _before(torch.where(newline_PS, position_S, 0))
        last_hash_PS = _before(torch.where(self.hash_sign[tokens_PS], position_S, -1))
        triple_PS = self.triple[tokens_PS]
        inside = {
            "number": self.number[tokens_PS], "punctuation": self.punctuation[tokens_PS],
            "capital": self.capital[tokens_PS], "newline": newline_PS, "space": self.space[tokens_PS],
            "inside_word": self.word_first[tokens_PS] & self.word_last[before_PS] & has_before_S,
            "line_start": self.newline[before_PS] & has_before_S & ~newline_PS,
            "comment": (last_hash_PS > last_line_PS) & ~newline_PS,
            "triple_quotes": (triple_PS.cumsum(1) - triple_PS) % 2 == 1,
            "brackets": _depth(self.brackets[tokens_PS]) > 0,
            "context_start": (position_S == 1).expand(tokens_PS.shape)}
        return torch.stack([inside[name] for name in CLASSES])


def _before(mark_PS: Tensor) -> Tensor:
    """Return the largest mark strictly before each position."""
    shifted_PS = torch.roll(mark_PS, 1, dims=1)
    shifted_PS[:, 0] = -1
    return shifted_PS.cummax(dim=1).values


def _depth(change_PS: Tensor) -> Tensor:
    """Return how many brackets are open before each token, without closing brackets that match no opening one."""
    level_PS = change_PS.cumsum(1)
    floor_PS = level_PS.cummin(dim=1).values.clamp(max=0)
    depth_PS = level_PS - floor_PS
    before_PS = torch.roll(depth_PS, 1, dims=1)
    before_PS[:, 0] = 0
    return before_PS
