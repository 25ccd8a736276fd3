"""Conversion of token ids to readable text: bytes and spans, with nothing dropped.  No torch.

A token of a byte-level vocabulary is a sequence of bytes, and may be only a part of a character. `spans` merges
neighbouring tokens until their bytes decode (at most four bytes per character).  So a page shows `é` once and not two
unreadable halves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MAX_SPAN = 4


@cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each printable character stands for in GPT-2's byte-level BPE."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    table = {chr(b): b for b in printable}
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


def piece_bytes(piece: str, byte_level: bool) -> bytes:
    """Return the bytes that a vocabulary entry stands for.

    `byte_level` says whether the alphabet is GPT-2's or SentencePiece's (`▁` is a space and `<0xNN>` a byte). An entry
    that is not in the alphabet (an added token) stands for its own text.
    """
    if byte_level:
        table = byte_of_character()
        if all(c in table for c in piece):
            return bytes(table[c] for c in piece)
        return piece.encode()
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()


@dataclass(frozen=True)
class Span:
    """One or more tokens shown as one piece of text; `start`..`end` are their indices."""

    text: str
    start: int
    end: int


def spans(pieces: Sequence[bytes]) -> list[Span]:
    """Split a row of token pieces into spans whose bytes decode.  Every token is in one span.

    A token that cannot be completed within four tokens stands alone as `⟨E2 80⟩`.
    """
    out: list[Span] = []
    i = 0
    while i < len(pieces):
        joined = b""
        for j in range(i, min(i + MAX_SPAN, len(pieces))):
            joined += pieces[j]
            try:
                out.append(Span(joined.decode(), i, j + 1))
                i = j + 1
                break
            except UnicodeDecodeError:
                continue
        else:
            out.append(Span(f"⟨{pieces[i].hex(' ').upper()}⟩", i, i + 1))
            i += 1
    return out
