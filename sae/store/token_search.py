"""Tokens of a vocabulary by a text that they contain."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from heapq import nsmallest

from sae.store.records import Token, Vocabulary

_BETWEEN = b"\0"  # a piece may contain it too, so every place that is found is checked


class _Pieces:
    """The bytes of all tokens in a row, which are searched much faster than token after token."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._entries = list(vocabulary.values())
        self._starts, at = [], 0
        for entry in self._entries:
            self._starts.append(at)
            at += len(entry.piece) + len(_BETWEEN)
        self._bytes = _BETWEEN.join(entry.piece for entry in self._entries)

    def containing(self, wanted: bytes) -> Iterator[Token]:
        """Yield every token whose bytes contain `wanted`."""
        at = self._bytes.find(wanted)
        while at >= 0:
            place = bisect_right(self._starts, at) - 1
            if wanted in self._entries[place].piece:
                yield self._entries[place]
            after = place + 1
            at = self._bytes.find(wanted, self._starts[after]) if after < len(self._starts) else -1


def find_tokens(vocabulary: Vocabulary, text: str, limit: int) -> list[Token]:
    """Find tokens by their text: first equal ones, then equal up to a leading space, then by prefix, then by
    substring.  Frequent tokens come first among equals.
    """
    wanted = text.encode()
    if not wanted:
        return []

    def rank(entry: Token) -> tuple[bool, bool, bool, int, int]:
        bare = entry.piece.strip(b" ")
        return entry.piece != wanted, bare != wanted, not bare.startswith(wanted), -(entry.n or 0), entry.token

    return nsmallest(limit, vocabulary.kept(_Pieces).containing(wanted), key=rank)
