"""Spans of Python's concepts in sources written for it."""

from __future__ import annotations

import heapq
from pathlib import Path

import pytest

from sae.evaluation.python_concepts import python_spans

SOURCE = '''"""Café — a module."""
import os  # für später

@cached
class Straße(Base, metaclass=Meta):
    """A class."""

    async def läuft(self, x: int = 3, *, y=None) -> str:
        wert = self.größe["é"] + 1
        for i in range(x):
            if i > 2 and y:
                raise ValueError(f"ü{i}")
        return [n for n in (1, 2)]
'''


def texts(concept: str, source: str = SOURCE) -> list[str]:
    spans, data = python_spans(source), source.encode()
    assert spans is not None
    return [data[a:b].decode() for a, b, name in spans if name == concept]


@pytest.mark.parametrize(("concept", "expected"), [
    ("docstring", ['"""Café — a module."""', '"""A class."""']), ("comment", ["# für später"]),
    ("class name", ["Straße"]), ("function name", ["läuft"]), ("decorator", ["cached"]),
    ("parameter", ["self", "x: int", "y"]), ("default value", ["3", "None"]), ("annotation", ["int"]),
    ("attribute name", ["größe"]), ("condition", ["i > 2 and y"]), ("comparison", ["i > 2"]),
    ("boolean expression", ["i > 2 and y"]), ("f-string", ['f"ü{i}"']), ("number", ["3", "1", "2", "1", "2"]),
    ("constant", ["None"]), ("assigned name", ["wert", "i"]), ("keyword argument", ["metaclass"]),
    ("comprehension", ["[n for n in (1, 2)]"]), ("import", ["import os"]), ("call", [
        "range(x)", 'ValueError(f"ü{i}")']), ("subscript", ['self.größe["é"]']), ("tuple", ["(1, 2)"]),
    ("raise", ['raise ValueError(f"ü{i}")']), ("arithmetic", ['self.größe["é"] + 1'])])
def test_each_concept_covers_its_source(concept: str, expected: list[str]) -> None:
    assert texts(concept) == expected


def test_docstrings_are_no_strings() -> None:
    assert texts("keyword") == ["import", "class", "async", "def", "for", "in", "if", "and", "raise", "return", "for",
                                "in"]
    assert '"""A class."""' not in texts("string")
    assert '"é"' in texts("string")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_offsets_are_right_after_any_line_end(end: str) -> None:
    source = SOURCE.replace("\n", end)
    assert texts("number", source) == ["3", "1", "2", "1", "2"]
    assert texts("function name", source) == ["läuft"]


@pytest.mark.parametrize("source", ["def f(:\n", "x = (1,\n", "\x00", "if x:\npass"])
def test_what_is_not_python_has_no_spans(source: str) -> None:
    assert python_spans(source) is None


def test_every_span_of_a_real_file_holds_text() -> None:
    text = Path(heapq.__file__).read_text(encoding="utf-8")
    spans = python_spans(text)
    assert spans is not None
    assert len({name for *_, name in spans}) > 20
    assert all(0 <= a < b <= len(text.encode()) for a, b, _ in spans)
