r"""Tokens as text in dashboard files, and back to bytes.  No torch.

Our exports write a token as its text, or as `\xe2\x80` if its bytes are only a part of a character (as
circuit-tracer's files do).  A token whose text looks like such an escape is escaped too, so the
inverse is exact.

Other programs write vocabulary entries of a byte-level tokenizer, in which each byte has a printable
stand-in.  They replace ten of the usual stand-ins: `Ġthe` becomes ` the`, but `é` stays `Ã©`.  The contexts
show whether a file has stand-ins: decoded as stand-ins, they give valid text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sae.lm.tokens import byte_of_character

_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")


def piece_text(piece: bytes) -> str:
    """Return the token's text in our exports."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return _escaped(piece)
    return _escaped(piece) if _ESCAPED.fullmatch(text) else text


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


def own_piece(text: str) -> bytes:
    """Return the bytes of a token as our exports write it; the inverse of `piece_text`."""
    return bytes.fromhex(text.replace("\\x", "")) if _ESCAPED.fullmatch(text) else text_piece(text)


def text_piece(text: str) -> bytes:
    """Return the bytes of a token that is plain text; half of a surrogate pair stays invalid UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def stand_in_piece(text: str) -> bytes:
    """Return the bytes of a token of a byte-level vocabulary, in which characters stand for bytes."""
    table = byte_of_character()
    return b"".join(bytes([table[c]]) if c in table else text_piece(c) for c in text)


def has_stand_ins(contexts: Iterable[Sequence[str]]) -> bool:
    """Return whether these tokens come from a byte-level vocabulary.

    Only contexts with non-ASCII characters that may be stand-ins are counted, and at least 90% of them must
    decode to valid text.  A context may begin or end inside a character.
    """
    relevant = right = 0
    for tokens in contexts:
        text = "".join(tokens)
        if not any(c > "\x7f" and c in byte_of_character() for c in text):
            continue
        relevant += 1
        right += _is_text(stand_in_piece(text))
    return relevant > 0 and right >= 0.9 * relevant


def _is_text(data: bytes) -> bool:
    start = 0
    while start < min(4, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    try:
        data[start:].decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
