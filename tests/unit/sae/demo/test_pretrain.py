"""Tests of the command that trains the embedded model, and of the shipped model."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from sae.demo.pretrain import card, main, measure
from sae.demo.score import Score
from sae.demo.text import held_out_documents, is_held_out
from sae.demo.training import Recipe
from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH

# Typical Python source, written here so that the score does not depend on the interpreter's version.
SOURCE = '''"""Stack of values, last in, first out."""

import collections


class Stack:
    """A stack of values."""

    def __init__(self, values=()):
        self._values = collections.deque(values)

    def push(self, value):
        """Add a value on top."""
        self._values.append(value)

    def pop(self):
        """Remove and return the value on top."""
        if not self._values:
            raise IndexError("pop from an empty stack")
        return self._values.pop()

    def __len__(self):
        return len(self._values)
'''


def make_library(folder: Path) -> Path:
    """Write three files that the rule holds out (it depends on their text) to `folder`."""
    texts = (f"{SOURCE}\n\nVERSION = {number}\n" for number in itertools.count())
    for i, text in enumerate(itertools.islice(filter(is_held_out, texts), 3)):
        (folder / f"m{i}.py").write_text(text)
    return folder


def test_the_shipped_model_predicts_source_far_better_than_chance(demo_lm: LanguageModel, tmp_path: Path) -> None:
    scores = measure(demo_lm, make_library(tmp_path))
    assert len(held_out_documents(tmp_path)) == 3
    assert scores["contexts"].bytes == sum(len(d.text) for d in held_out_documents(tmp_path))
    assert scores["contexts"].bits_per_byte < 1.3
    assert scores["contexts"].nats_per_token < 0.35 * math.log(demo_lm.info.d_vocab)


def test_the_shipped_models_card_states_the_required_facts() -> None:
    text = (DEMO_PATH / "README.md").read_text(encoding="utf-8")
    for needed in ("tokens seen", "bits per byte", "python -m sae.demo.pretrain", "held out"):
        assert needed in text.lower()
    assert (DEMO_PATH / "model.safetensors").stat().st_size < 20e6


def test_a_card_names_the_command_that_makes_the_model_again(tmp_path: Path) -> None:
    counts = {"files": 10, "tokens": 1000}
    (tmp_path / "text.json").write_text(json.dumps({"held_out": 2, "stdlib": counts, "packages": counts}))
    score = Score(tokens=100, bytes=300, nats_per_token=2.0)
    text = card(Recipe(steps=50, d_model=320), tmp_path, {"contexts": score, "stream": score})
    assert "--d-model 320 --steps 50" in text
    assert f"{50 * 32 * 255:,}" in text
    assert f"{2.0 * 100 / 300 / math.log(2):.4f} bits per" in text


def test_a_mistake_costs_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "x"), "--heads", "3"]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2
