"""The choice in forms and addresses of how special tokens that are spelled in a text are read.

It is `markup=yes` (as these tokens), `markup=no` (as plain characters), or left out (as the SAE says).
"""

from __future__ import annotations

_WORDS = {"yes": True, "no": False}


def markup_of(word: str) -> bool | str | None:
    """Return the choice that a form's word makes, and a word that makes none as it is, for a check to refuse."""
    return _WORDS.get(word, word) if word else None


def choice_of(word: str) -> bool | None:
    """Return the choice that a checked word makes."""
    return _WORDS.get(word)


def markup_word(choice: bool | None) -> str:
    """Return the word of a choice in a form."""
    return next((word for word, value in _WORDS.items() if value is choice), "")
