"""Simulation: a model predicts from the explanation how active the latent is on every token of a text.  No torch.

The value is the correlation of predicted and real activations over the tokens of all texts, as in Bills et al. 2023.  A
prediction is the expected value of the numbers 0 to 10 by their probabilities, so the model has to report logprobs.
"""

from __future__ import annotations

import numpy as np

from sae.explain import measures
from sae.explain.answers import Unparsable, levels_of
from sae.explain.chat import ask_for, expected_values
from sae.explain.examples import Example, Examples
from sae.explain.judging import MIN_POSITIVES, Judge
from sae.explain.records import Explanation, Score

TOP = 10
TEXTS = 8


def simulation(judge: Judge, explanation: Explanation, examples: Examples) -> Score | None:
    """Score the correlation.  Returns None if there are too few examples, or the model reports no logprobs."""
    if len(examples.positives) < MIN_POSITIVES:
        return None
    chosen = [*examples.positives[: TEXTS - 2], *examples.negatives[:2]]
    rows: list[tuple[measures.Array, measures.Array]] = []  # real and predicted activations of each text
    unparsable = 0
    for one in chosen:
        real = [act for _, act in one.excerpt.words()]
        try:
            predicted = _predict(judge, explanation.text, one)
        except Unparsable:  # a prediction that does not vary explains nothing
            predicted, unparsable = [0.0] * len(real), unparsable + 1
        if predicted is None:
            return None
        rows.append((np.array(real), np.array(predicted)))

    real_N, predicted_N = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
    low, high = measures.pearson_interval(rows, judge.seed)
    return Score(
        explanation.latent, "simulation", measures.pearson(real_N, predicted_N), len(real_N), explanation.id, low, high,
        None, judge.model.name,
        details={"texts": len(rows), "unparsable": unparsable, "prompt": judge.templates["simulation"].version})


def _predict(judge: Judge, text: str, example: Example) -> list[float] | None:
    """Return the predicted activation of every piece of text, or None if the model reports no probabilities."""
    words = [word for word, _ in example.excerpt.words()]
    listed = "\n".join(f"{i}\t{word!r}" for i, word in enumerate(words, 1))
    messages = judge.templates["simulation"].fill(explanation=text, texts=listed, n=len(words))
    _, answer = ask_for(judge.model, messages, lambda said: levels_of(said, len(words), TOP), judge.templates["retry"],
                        max(judge.max_tokens, 8 * len(words)), logprobs=True)
    return expected_values(answer, len(words), range(TOP + 1))
