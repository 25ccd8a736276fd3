"""The bytes of vocabulary entries.

A tokenizer of the tokenizers library states its alphabet.  A tokenizer that is a Python program does not, so each known
reading of its pieces is tried on a sample, and the first one that gives the sample back is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sae.lm.tokens import piece_bytes

Reading = Callable[[str], bytes]

_SAMPLE = "A little text, with numbers (12) and naïve café — 水."


def all_pieces(tokenizer: Any, d_vocab: int) -> list[bytes]:
    """Return the bytes of every token id below `d_vocab`; embedding rows that no token uses are empty."""
    n_tokens = min(len(tokenizer), d_vocab)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        values = python_pieces(tokenizer, n_tokens)
    else:
        byte_level = "ByteLevel" in repr(backend.pre_tokenizer) + repr(backend.decoder)
        values = [piece_bytes(piece or "", byte_level) for piece in tokenizer.convert_ids_to_tokens(range(n_tokens))]
    for token, added in tokenizer.added_tokens_decoder.items():  # these stand for their own text
        if token < n_tokens:
            values[token] = added.content.encode()
    return values + [b""] * (d_vocab - n_tokens)


def python_pieces(tokenizer: Any, n_tokens: int) -> list[bytes]:
    """Return the bytes of the first `n_tokens` entries of a tokenizer that is a Python program."""
    ids = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
    sample = tokenizer.convert_ids_to_tokens(ids)
    reading = next((one for one in _readings(tokenizer) if _gives_back(one, sample)), _as_string(tokenizer))
    return [reading(piece or "") for piece in tokenizer.convert_ids_to_tokens(range(n_tokens))]


def _gives_back(reading: Reading, pieces: list[str]) -> bool:
    text = b"".join(map(reading, pieces)).decode(errors="replace")
    return text.strip() == _SAMPLE


def _readings(tokenizer: Any) -> list[Reading]:
    return [lambda piece: piece_bytes(piece, True), lambda piece: piece_bytes(piece, False), _as_bytes,
            _as_string(tokenizer)]


def _as_bytes(piece: str) -> bytes:
    """Read a piece whose characters are the numbers of its bytes."""
    return piece.encode("latin-1") if all(ord(c) < 256 for c in piece) else piece.encode()


def _as_string(tokenizer: Any) -> Reading:
    """Return the reading that asks the tokenizer for the text of one piece."""
    def reading(piece: str) -> bytes:
        return str(tokenizer.convert_tokens_to_string([piece])).encode() if piece else b""

    return reading
