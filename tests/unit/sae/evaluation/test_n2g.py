"""Precision and recall of patterns and rules against loops over the scored text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sae.errors import UserError
from sae.evaluation.measure import Result
from sae.evaluation.n2g import DEFINITIONS, N2G, read_firings, rules_of, strongest_texts
from sae.evaluation.reading import halves


def silent(done: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def subject(subject_of: Any, tiny_sae: Any) -> Any:
    sae = tiny_sae(n_latents=24)
    sae.sparsity.threshold = 1.5
    return subject_of(sae)


@pytest.fixture(scope="module")
def result(subject: Any) -> Result:
    return N2G(n_latents=4, n_texts=3, longest=4).run(subject, silent)


def test_scores_are_those_of_loops(subject: Any, result: Result) -> None:
    _, scoring = halves(subject, subject.contexts)
    S, pieces = subject.corpus.context_length, subject.model.vocabulary()[0]
    found = {value.key: value for value in result.values}
    for row in result.detail["latents"]:
        firings = read_firings(subject, scoring, silent, [row["latent"]])
        fires = set(firings.place_N.tolist())
        assert row["firings"] == len(fires)
        named = set()
        for context in scoring.tolist():
            tokens = [pieces[t].decode("utf-8", "replace") for t in subject.corpus.tokens[context]]
            for end in range(1, subject.corpus.length[context]):
                for pattern in row["patterns"]:
                    start = end - len(pattern["tokens"]) + 1
                    if start >= 1 and (start == 1 or not pattern["at_start"]) and all(
                            t is None or t == tokens[start + i] for i, t in enumerate(pattern["tokens"])):
                        named.add(context * S + end)
        assert row["precision"] == (len(named & fires) / len(named) if named else None)
        assert row["recall"] == (len(named & fires) / len(fires) if fires else None)
    recalls = [row["recall"] for row in result.detail["latents"] if row["recall"] is not None]
    assert found["n2g_recall"].value == pytest.approx(np.mean(recalls))
    assert found["n2g_recall"].n == len(recalls)


def test_the_result_is_plain_json_with_a_definition_for_every_value(result: Result) -> None:
    assert {value.key for value in result.values} == set(DEFINITIONS)
    json.dumps(result.detail, allow_nan=False)
    assert len(result.detail["latents"]) == 4


def test_texts_end_at_the_strongest_firings_of_different_contexts(subject: Any) -> None:
    firings = read_firings(subject, subject.contexts, silent)
    latent = int(np.bincount(firings.latent_N).argmax())
    mine = firings.of(latent)
    texts = strongest_texts(subject, mine, 5)
    assert len(texts) == 5
    S = subject.corpus.context_length
    strongest: dict[int, float] = {}
    for place, value in zip(mine.place_N.tolist(), mine.value_N.tolist(), strict=True):
        strongest[place // S] = max(value, strongest.get(place // S, 0.0))
    assert [text.activation for text in texts] == sorted(strongest.values(), reverse=True)[:5]


def test_rules_are_measured_on_the_half_that_they_were_not_found_on(subject: Any) -> None:
    """Compare the rules' precision and recall with loops over the tokens."""
    a, b = halves(subject, subject.contexts)
    found, held = (read_firings(subject, half, silent) for half in (a, b))
    latents = list(range(24))
    rules = rules_of(subject, latents, (found, a), (held, b))
    S, corpus, checked = subject.corpus.context_length, subject.corpus, 0
    for latent in latents:
        kind = int(rules.kind_L[latent])
        if kind < 0:
            continue
        named_tokens = set(rules.token_LK[latent].tolist()) - {-1}
        fires, step = set(held.of(latent).place_N.tolist()), (0, -1, 1)[kind]
        named = {c * S + p for c in b.tolist() for p in range(1, corpus.length[c])
                 if p + step < corpus.length[c] and int(corpus.tokens[c, p + step]) in named_tokens}
        assert float(rules.precision_L[latent]) == pytest.approx(len(named & fires) / max(len(named), 1))
        assert float(rules.recall_L[latent]) == pytest.approx(len(named & fires) / len(fires))
        checked += 1
    assert checked > 3


def test_text_on_which_nothing_fires_is_refused(subject_of: Any, tiny_sae: Any) -> None:
    sae = tiny_sae(n_latents=8)
    sae.sparsity.threshold = 1e9
    with pytest.raises(UserError, match="no latent fires 10 times"):
        N2G().run(subject_of(sae, [0, 1]), silent)
    assert "too few" in (N2G().refuse(subject_of(sae, [0])) or "")
