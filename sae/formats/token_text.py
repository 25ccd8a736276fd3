r"""Tokens as the text that dashboard files hold, and back to bytes.  No torch.

We write a token as its text where its bytes are text, and as `\xe2\x80` where they are only a part
of a character (as circuit-tracer's files do); a token whose text looks like that is written so
too, which makes the way back exact.

Others write vocabulary entries of a byte-level tokenizer, in which each byte has a printable
stand-in, with ten of the usual ones replaced: `Ġthe` is ` the`, but `é` is `Ã©`.  Whether a
file is of that kind is told from its contexts: read as stand-ins they give valid text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sae.lm.tokens import byte_of_character

_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")


def piece_text(piece: bytes) -> str:
    """The token's text in our exports."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return _escaped(piece)
    return _escaped(piece) if _ESCAPED.fullmatch(text) else text


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


def own_piece(text: str) -> bytes:
    """The bytes of a token as our exports write it; the inverse of `piece_text`."""
    return bytes.fromhex(text.replace("\\x", "")) if _ESCAPED.fullmatch(text) else text_piece(text)


def text_piece(text: str) -> bytes:
    """The bytes of a token that is plain text; half of a surrogate pair stays the broken thing it is."""
    return text.encode("utf-8", "surrogatepass")


def stand_in_piece(text: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary, in which characters stand for bytes."""
    table = byte_of_character()
    return b"".join(bytes([table[c]]) if c in table else text_piece(c) for c in text)


def has_stand_ins(contexts: Iterable[Sequence[str]]) -> bool:
    """Whether these tokens are of a byte-level vocabulary: of the contexts that could tell, nearly all say so.

    A context can tell if characters beyond ASCII that may be stand-ins are in it.  Cut at its ends, it may
    begin or end inside a character, which is allowed for.
    """
    told = right = 0
    for tokens in contexts:
        text = "".join(tokens)
        if not any(c > "\x7f" and c in byte_of_character() for c in text):
            continue
        told += 1
        right += _is_text(stand_in_piece(text))
    return told > 0 and right >= 0.9 * told


def _is_text(data: bytes) -> bool:
    start = 0
    while start < min(4, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    try:
        data[start:].decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
