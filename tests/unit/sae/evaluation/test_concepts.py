"""Concept F1 against loops over tokens and spans."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sae.errors import UserError
from sae.evaluation import concepts as module
from sae.evaluation.annotations import Annotations
from sae.evaluation.concepts import DEFINITIONS, SHARES, Concepts, count
from sae.evaluation.reading import read_tokens


def silent(done: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def made(subject_of: Any, tiny_sae: Any) -> tuple[Any, Annotations]:
    subject = subject_of(tiny_sae(n_latents=24))
    rng = np.random.default_rng(0)
    spans = {}
    for context in range(subject.corpus.n_contexts):
        starts = np.sort(rng.integers(1, 28, 6))
        spans[context] = [(int(a), int(a + rng.integers(1, 5)), int(rng.integers(3))) for a in starts]
    return subject, Annotations(["a", "b", "c"], subject.contexts, spans)


def test_counts_are_those_of_loops(made: Any) -> None:
    subject, annotations = made
    contexts = np.array([0, 3, 5, 8])
    batches = list(read_tokens(subject, contexts, silent))
    x_ND = torch.cat([batch.x_ND for batch in batches])
    codes = subject.sae.codes(x_ND)
    acts_NL = torch.zeros(len(x_ND), 24)
    acts_NL[codes.token_N, codes.latent_N] = codes.value_N
    maximum_L = 0.9 * acts_NL.max(dim=0).values.clamp(min=0.1)
    found = count(subject, annotations, contexts, maximum_L, silent)
    place = {(int(c), int(p)): i for i, (c, p) in enumerate(zip(
        torch.cat([b.context_N for b in batches]), torch.cat([b.position_N for b in batches]), strict=True))}
    rows = [([place[c, p] for p in range(a, b) if (c, p) in place], concept)
            for c in contexts.tolist() for a, b, concept in annotations.spans[c]]
    rows = [(at, concept) for at, concept in rows if at]
    for t, share in enumerate(SHARES):
        yes_NL = acts_NL / maximum_L > share
        assert torch.equal(found.yes_TL[t], yes_NL.sum(0))
        for concept in range(3):
            carries = sorted({i for at, c in rows if c == concept for i in at})
            assert found.tokens_C[concept] == len(carries)
            assert found.spans_C[concept] == sum(c == concept for _, c in rows)
            assert found.both_TLC[t, :, concept].tolist() == yes_NL[carries].sum(0).tolist()
            hits = sum(yes_NL[at].any(dim=0).long() for at, c in rows if c == concept)
            assert found.hit_TLC[t, :, concept].tolist() == hits.tolist()  # type: ignore[union-attr]
    latent, concept = 2, 1
    yes = acts_NL[:, latent] / maximum_L[latent] > SHARES[1]
    carries = sorted({i for at, c in rows if c == concept for i in at})
    precision = float(yes[carries].sum() / yes.sum())
    recall = float(yes[carries].sum() / len(carries))
    span_recall = float(np.mean([bool(yes[at].any()) for at, c in rows if c == concept]))
    scores = found.scores(1, latent, concept)
    assert scores["precision"] == pytest.approx(precision)
    assert scores["recall"] == pytest.approx(recall)
    assert scores["span_recall"] == pytest.approx(span_recall)
    assert scores["f1"] == pytest.approx(2 * precision * span_recall / (precision + span_recall), rel=1e-5)
    assert float(found.f1_LC(1)[latent, concept]) == pytest.approx(scores["f1"], rel=1e-5)


def test_a_latent_that_is_the_concept_is_found(
    subject_of: Any, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a latent planted on one concept's tokens has F1 = 1 on the half that it was not chosen on."""
    subject = subject_of(tiny_sae(n_latents=8))
    spans = {c: [(3, 6, 0), (10, 11, 1), (14, 20, 0), (22, 23, 1)] for c in range(subject.corpus.n_contexts)}
    full = subject.contexts[subject.corpus.length == 32]
    annotations = Annotations(["planted", "other"], full, spans)
    monkeypatch.setattr(module, "annotate", lambda _: annotations)
    original = type(subject.sae).codes
    places: list[Any] = []

    def read(*args: Any, **options: Any) -> Any:
        for batch in read_tokens(*args, **options):
            places[:] = [batch.position_N]
            yield batch

    def codes(self: Any, x_BD: torch.Tensor) -> Any:
        found = original(self, x_BD)
        p = places[0]
        planted = ((p >= 3) & (p < 6) | (p >= 14) & (p < 20)).nonzero()[:, 0]
        others = found.where(found.latent_N != 5)
        token_N = torch.cat([others.token_N, planted])
        order = token_N.argsort(stable=True)
        latent_N = torch.cat([others.latent_N, torch.full((len(planted),), 5)])
        value_N = torch.cat([others.value_N, torch.ones(len(planted))])
        return type(found)(token_N[order], latent_N[order], value_N[order], found.n_tokens, found.n_latents)

    monkeypatch.setattr(module, "read_tokens", read)
    monkeypatch.setattr(type(subject.sae), "codes", codes)
    result = Concepts().run(subject, silent)
    top = result.detail["concepts"][0]
    assert (top["concept"], top["latent"]) == ("planted", 5)
    assert top["f1"] == top["precision"] == top["recall"] == 1.0
    found = {value.key: value.value for value in result.values}
    assert found["concepts"] == 2
    assert set(found) == set(DEFINITIONS)
    assert 1 <= found["concepts_over_half"] <= 2  # type: ignore[operator]
    json.dumps(result.detail, allow_nan=False)


def test_python_s_own_concepts_are_measured(subject_of: Any, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(tiny_sae("topk", k=4))
    monkeypatch.setattr(module, "_MIN_SPANS", 2)
    result = Concepts().run(subject, silent)
    assert {row["concept"] for row in result.detail["concepts"]} & {"comment", "docstring", "string"}
    assert all(0 <= row["f1"] <= 1 for row in result.detail["concepts"])


def test_too_few_labels_are_refused(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, annotations = made
    few = replace(annotations, spans={c: spans[:1] for c, spans in annotations.spans.items()})
    monkeypatch.setattr(module, "annotate", lambda _: few)
    monkeypatch.setattr(module, "_MIN_SPANS", 1000)
    with pytest.raises(UserError, match="none of 3 concepts has 1000 spans in both halves"):
        Concepts().run(subject, silent)
    assert "too few" in (Concepts().refuse(replace(subject, contexts=np.array([1]))) or "")
