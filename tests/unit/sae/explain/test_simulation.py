"""The simulation scorer against a correlation computed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sae.explain.chat import Answer
from sae.explain.judging import Judge
from sae.explain.records import Score
from sae.explain.simulation import simulation
from sae.explain.templates import Messages, load_templates
from tests.unit.sae.explain.cats import EXPLANATION, examples, score_of
from tests.unit.sae.explain.conftest import Said


class Simulating(Said):
    """A model that predicts 10 on words that `decide` chooses; without probabilities if they are not asked for."""

    def __init__(self, folder: Path, decide: Callable[[str], bool], with_logprobs: bool = True) -> None:
        super().__init__(folder, lambda m: "")
        self.decide, self.with_logprobs = decide, with_logprobs

    def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
        words = re.findall(r"^\d+\t(.*)$", messages[-1]["content"], re.MULTILINE)
        levels = [10 * self.decide(word) for word in words]
        options = [(str(n), {str(n): 0.5, str(10 - n): 0.0, "x": 0.5}) for n in levels]
        return Answer(json.dumps({"answers": levels}), 1, 1, options if self.with_logprobs else None)


def test_simulation_is_the_correlation_with_the_activations(tmp_path: Path) -> None:
    def value(folder: str, decide: Callable[[str], bool]) -> Score:
        return score_of(simulation(Judge(Simulating(tmp_path / folder, decide), load_templates()), EXPLANATION,
                                   examples()))

    perfect = value("a", lambda word: "cat" in word)
    assert perfect.value == pytest.approx(1.0)
    assert perfect.n == 8 * 4
    assert value("b", lambda word: False).value == 0.0
    # 8 texts of 4 words: 6 cats fire; the prediction is the first word of each text
    real = np.array(([0, 0, 1, 0] * 6) + [0] * 8, dtype=float)
    first = np.array([1, 0, 0, 0] * 8, dtype=float)
    assert value("c", lambda word: "n" in word).value == pytest.approx(float(np.corrcoef(real, first)[0, 1]))


def test_simulation_needs_probabilities(tmp_path: Path) -> None:
    model = Simulating(tmp_path, lambda word: True, with_logprobs=False)
    assert simulation(Judge(model, load_templates()), EXPLANATION, examples()) is None
