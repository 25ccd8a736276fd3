"""Answers of language models as values.  They come in code fences, after a chain of thought, or broken.  No torch.

Every function raises `Unparsable`, with the reason, for an answer that does not contain what was asked.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sae.explain.records import MAX_TEXT

_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL)
_TRAILING_COMMA = re.compile(r",\s*([\]}])")
_TAGGED = re.compile(r"\[?EXPLANATION\]?\s*:\s*(.+)", re.IGNORECASE)
_MAX_TRIES = 200  # brackets that begin no JSON: an answer of nothing else must not take minutes
_MAX_PLAIN = 200  # a plain line longer than this is prose about the task, not an explanation


class Unparsable(ValueError):
    """An answer that does not contain what was asked."""


def json_of(text: str, wanted: type = dict) -> Any:
    """Return the last JSON object (or list) in an answer; a fence, text around it and trailing commas do not matter."""
    bare = _TRAILING_COMMA.sub(r"\1", without_thoughts(text))
    opening, decoder, found, at = "{" if wanted is dict else "[", json.JSONDecoder(), None, 0
    failures = 0
    while failures < _MAX_TRIES and (at := bare.find(opening, at)) >= 0:
        try:
            found, at = decoder.raw_decode(bare, at)
        except (ValueError, RecursionError):
            at, failures = at + 1, failures + 1
    if found is None:
        raise Unparsable("it contains no JSON " + ("object" if wanted is dict else "list"))
    return found


def without_thoughts(text: str) -> str:
    """Return an answer without its chain of thought, which may lack its end."""
    bare = _THOUGHT.sub("", text)
    return re.split(r"<(?:think|thinking|reasoning)>", bare)[0]


def explanation_of(text: str) -> str:
    """Return the explanation in an answer: of a JSON object, after `EXPLANATION:`, or one short plain line."""
    try:
        value = json_of(text).get("explanation")
    except Unparsable:
        bare = without_thoughts(text).strip().strip("`").strip()
        tagged = _TAGGED.findall(bare)
        value = tagged[-1] if tagged else bare
        if not tagged and ("\n" in bare or len(bare) > _MAX_PLAIN or "{" in bare):
            raise Unparsable('it is not an object {"explanation": "..."}') from None
    if not isinstance(value, str) or not (clean := _clean(value)):
        raise Unparsable("its explanation is not a text")
    return clean


def _clean(text: str) -> str:
    text = " ".join(text.replace("\0", " ").split())
    for opening, closing in ('""', "''", "“”"):
        inner = text[1:-1]
        if text.startswith(opening) and text.endswith(closing) and opening not in inner and closing not in inner:
            text = inner.strip()
    return text.removesuffix(".")[:MAX_TEXT]


def flags_of(text: str, n: int) -> list[bool]:
    """Return `n` decisions: a list of 0 and 1, or of false and true, alone or as `answers` of an object."""
    values = _list_of(text, n)
    if not all(isinstance(value, bool) or value in (0, 1) for value in values):
        raise Unparsable("its answers are not all 0 or 1")
    return [bool(value) for value in values]


def levels_of(text: str, n: int, top: int = 10) -> list[float]:
    """Return `n` numbers from 0 to `top`."""
    values = _list_of(text, n)
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= top for v in values):
        raise Unparsable(f"its answers are not all numbers from 0 to {top}")
    return [float(value) for value in values]


def choice_of(text: str, n: int) -> int:
    """Return the index of one of `n` numbered texts; the answer counts from 1."""
    value = json_of(text).get("answer")
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= n:
        raise Unparsable(f"its answer is not a number from 1 to {n}")
    return value - 1


def _list_of(text: str, n: int) -> list[Any]:
    try:
        values = json_of(text)
        values = values.get("answers")
    except Unparsable:
        values = json_of(text, list)
    if not isinstance(values, list):
        raise Unparsable('it is not an object {"answers": [...]}')
    if len(values) != n:
        raise Unparsable(f"it has {len(values)} answers, not {n}")
    return values
