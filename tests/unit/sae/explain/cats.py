"""Constructed examples of a latent that fires on cats, and a judge whose answers a function makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sae.explain.examples import ACTIVE, Example, Examples
from sae.explain.excerpts import Excerpt
from sae.explain.judging import Judge
from sae.explain.records import Explanation, Score
from sae.explain.templates import Messages, load_templates
from tests.unit.sae.explain.conftest import Said

EXPLANATION = Explanation(3, "the word cat", "model")


def excerpt(number: int, words: Sequence[str], fires: Sequence[int] = ()) -> Excerpt:
    pieces = tuple(f" {word}".encode() for word in (f"n{number}", *words))
    acts = tuple(float(4 * (i - 1 in fires)) for i in range(len(pieces)))
    return Excerpt(f"d{number}", number, 0, tuple(range(len(pieces))), pieces, acts, 1)


def examples(n: int = 6) -> Examples:
    """Make texts with a cat that fires, and without; the near misses are about a lion."""
    cats = [excerpt(i, ["a", "cat", "sat"], [1]) for i in range(n)]
    others = {"random": ["a", "dog", "sat"], "similar": ["a", "horse", "ran"], "near": ["a", "lion", "sat"]}
    return Examples(
        [Example(cat, ACTIVE, cat.active) for cat in cats],
        [Example(excerpt(100 * k + i, words), sort, frozenset({3}))
         for k, (sort, words) in enumerate(others.items(), 1) for i in range(4)], True)


def texts_of(messages: Messages) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", messages[-1]["content"], re.MULTILINE)


def judge(tmp_path: Path, decide: Callable[[str], object]) -> Judge:
    def brain(messages: Messages) -> str:
        return json.dumps({"answers": [int(bool(decide(text))) for text in texts_of(messages)]})

    return Judge(Said(tmp_path, brain), load_templates())


def score_of(found: Score | None) -> Score:
    assert found is not None
    return found
