"""Parsing of numbers in addresses and forms.

`str.isdigit()` accepts `²`, which `int()` refuses; `int()` raises on more than 4,300 digits; DuckDB raises on numbers
beyond its columns.  So every number from a request is parsed here.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

LIMIT = 2**31  # numbers of latents, contexts and positions are 32-bit in a build


def whole_number(text: str, below: int = LIMIT) -> int | None:
    """Return `text` as a whole number from 0 to `below` - 1, written in ASCII digits, or None if it is not one."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(LIMIT)):
        return None
    value = int(text)
    return value if value < below else None


PathNumber = Annotated[int, Path(ge=0, lt=LIMIT)]  # out of range: 404, as for any address that no page has
QueryNumber = Annotated[int, Query(ge=0, lt=LIMIT)]  # out of range: 422
