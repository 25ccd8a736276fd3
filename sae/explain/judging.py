"""Scorers in which a model judges texts: detection, fuzzing, and the intruder.  No torch.

    detection  the model reads an explanation and plain texts, and says in which the latent is active
    fuzzing    the tokens are marked, and the model says where the marks are right
    intruder   no explanation: the model finds the one text that does not belong to texts in which the latent fires

Detection and fuzzing are those of Paulo et al. 2024 (arXiv 2410.13928), with negatives of three sorts that are reported
apart.  The value is the balanced accuracy, so a constant answer has 0.5.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae.explain import measures
from sae.explain.answers import Unparsable, choice_of, flags_of
from sae.explain.chat import ChatModel, ask_for, expected_values
from sae.explain.examples import SORTS, Example, Examples
from sae.explain.records import Explanation, Score
from sae.explain.templates import Template, numbered

TEXTS_PER_PROMPT = 5
MIN_POSITIVES = 3  # an interval of fewer says nothing
SHOWN_WRONG = 8
INTRUDER_TEXTS = 5
INTRUDER_ROUNDS = 6


@dataclass(frozen=True)
class Judge:
    """A model with the prompts by which it judges."""

    model: ChatModel
    templates: dict[str, Template]
    max_tokens: int = 300
    logprobs: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Judgement:
    """A model's decision on one example; None could not be read.  `probability` is that of 1, where it is known."""

    example: Example
    answer: bool | None
    probability: float | None


def detection(judge: Judge, explanation: Explanation, examples: Examples) -> Score | None:
    """Score whether the explanation says in which texts the latent fires.  None if there are too few examples."""
    return _classify(judge, "detection", explanation, examples)


def fuzzing(judge: Judge, explanation: Explanation, examples: Examples) -> Score | None:
    """Score whether the explanation says on which tokens the latent fires.  None if there are too few examples."""
    return _classify(judge, "fuzzing", explanation, examples)


def _classify(judge: Judge, scorer: str, explanation: Explanation, examples: Examples) -> Score | None:
    if len(examples.positives) < MIN_POSITIVES or len(examples.negatives) < MIN_POSITIVES:
        return None
    mixed = examples.shuffled(judge.seed)
    judged = [one for i in range(0, len(mixed), TEXTS_PER_PROMPT)
              for one in _judge(judge, scorer, explanation.text, mixed[i : i + TEXTS_PER_PROMPT])]
    values = summary(judged, judge.seed)
    low, high = values.pop("interval")
    return Score(
        explanation.latent, scorer, values["balanced_accuracy"], len(judged), explanation.id, low, high, values["f1"],
        judge.model.name,
        details={**values, "verified": examples.verified, "prompt": judge.templates[scorer].version,
                 "wrong": wrong_examples(judged, scorer)})


def _judge(judge: Judge, scorer: str, text: str, batch: Sequence[Example]) -> list[Judgement]:
    template = judge.templates[scorer]
    texts = [one.excerpt.text(one.marked if scorer == "fuzzing" else ()) for one in batch]
    messages = template.fill(explanation=text, texts=numbered(texts), n=len(texts))
    try:
        answers, raw = ask_for(judge.model, messages, lambda said: flags_of(said, len(texts)), judge.templates["retry"],
                               judge.max_tokens, judge.logprobs)
    except Unparsable:
        return [Judgement(one, None, None) for one in batch]
    known = expected_values(raw, len(texts), (0, 1))
    return [Judgement(one, answer, known[i] if known else None)
            for i, (one, answer) in enumerate(zip(batch, answers, strict=True))]


def summary(judged: Sequence[Judgement], seed: int = 0) -> dict[str, Any]:
    """Return the measures of some judgements, with those against each sort of negatives under `sorts`."""
    truth = np.array([one.example.active for one in judged], dtype=bool)
    predicted = measures.right_or_wrong(truth.tolist(), [one.answer for one in judged])
    known = all(one.probability is not None for one in judged if one.answer is not None)
    scores = np.array([float(p) if one.answer is None or one.probability is None or not known else one.probability
                       for one, p in zip(judged, predicted, strict=True)])
    precision, recall = measures.precision_recall(truth, predicted)
    sorts = {}
    for sort in SORTS:
        rows = [i for i, one in enumerate(judged) if one.example.active or one.example.sort == sort]
        if n := sum(judged[i].example.sort == sort for i in rows):
            low, high = measures.balanced_interval(truth[rows], predicted[rows], seed)
            sorts[sort] = {"n": n, "balanced_accuracy": measures.balanced_accuracy(truth[rows], predicted[rows]),
                           "low": low, "high": high}
    return {
        "balanced_accuracy": measures.balanced_accuracy(truth, predicted), "f1": measures.f1(truth, predicted),
        "interval": measures.balanced_interval(truth, predicted, seed), "precision": precision, "recall": recall,
        "auc": measures.auc(truth, scores), "auc_from": "logprobs" if known else "answers",
        "unparsable": sum(one.answer is None for one in judged), "sorts": sorts}


def wrong_examples(judged: Sequence[Judgement], scorer: str) -> list[dict[str, Any]]:
    """Return some examples that were judged wrongly: they show the limits of an explanation best."""
    wrong = [one for one in judged if one.answer is not one.example.active]
    return [{"text": one.example.excerpt.text(
                 one.example.marked if scorer == "fuzzing" or one.example.active else ()),
             "sort": one.example.sort, "answer": one.answer, "document": one.example.excerpt.document}
            for one in wrong[:SHOWN_WRONG]]


def intruder(judge: Judge, latent: int, examples: Examples) -> Score | None:
    """Score whether a model finds the text in which the latent does not fire among four in which it does.

    It needs no explanation, so it measures the latent itself.  Chance is 1/5.
    """
    odd = [one for one in examples.negatives if one.sort == "random"]
    if len(examples.positives) < INTRUDER_TEXTS - 1 or not odd:
        return None
    rng = random.Random(f"{judge.seed} {latent}")
    right: list[bool] = []
    unparsable = 0
    for number in range(INTRUDER_ROUNDS):
        shown = rng.sample(examples.positives, INTRUDER_TEXTS - 1)
        at = rng.randrange(INTRUDER_TEXTS)
        shown.insert(at, odd[number % len(odd)])
        texts = numbered([one.excerpt.text(one.marked) for one in shown])
        try:
            answer, _ = ask_for(
                judge.model, judge.templates["intruder"].fill(texts=texts, n=len(shown)),
                lambda said: choice_of(said, INTRUDER_TEXTS), judge.templates["retry"], judge.max_tokens)
        except Unparsable:
            answer, unparsable = -1, unparsable + 1
        right.append(answer == at)
    found = np.array(right, dtype=float)
    low, high = measures.mean_interval(found, judge.seed)
    return Score(latent, "intruder", float(found.mean()), len(right), "", low, high, None, judge.model.name,
                 details={"chance": 1 / INTRUDER_TEXTS, "unparsable": unparsable,
                          "prompt": judge.templates["intruder"].version})
