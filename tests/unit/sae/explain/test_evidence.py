"""Evidence of a synthetic build, and the texts of rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sae.explain.evidence import evidence_of, rule_text
from sae.explain.excerpts import document_of, in_scoring_half
from sae.store.build import Build
from sae.store.records import Context, Rule


def test_the_evidence_counts_tokens_of_its_own_half(build: Build) -> None:
    found = build.latent(0)  # it fires on one token
    assert found is not None
    evidence = evidence_of(build, found)
    assert len(evidence.fires_on) == 1
    firing = [c for c in build.contexts(0) if not in_scoring_half(c.document) and c.band != 5]
    places = {(c.ctx, (c.start or 0) + i) for c in firing for i, act in enumerate(c.acts) if act > 0}
    assert evidence.fires_on[0][1] == len(places)
    assert evidence.promoted
    assert evidence.top


def test_a_rule_in_words(build: Build) -> None:
    token = build.find_tokens(" self")[0].token
    newline = build.find_tokens("\n")[0].token
    assert rule_text(Rule("token", [token, newline], None, 1, 1, 1), build.vocabulary) == 'fires on " self", "\\n"'
    assert rule_text(Rule("class", [], "number", 1, 1, 1), build.vocabulary) == "fires on numbers"
    assert rule_text(None, build.vocabulary) is None


def test_nothing_of_the_scoring_half_is_in_the_evidence(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other scoring contexts and another rule of the index leave the evidence as it is."""
    found = build.latent(0)
    assert found is not None
    before = evidence_of(build, found)
    assert before.rule is not None

    def contexts(latent: int) -> list[Context]:
        return [replace(c, tokens=[9] * len(c.tokens)) if in_scoring_half(document_of(c)) else c
                for c in whole(latent)]

    whole = build.contexts
    monkeypatch.setattr(build, "contexts", contexts)
    assert contexts(0) != whole(0)
    assert evidence_of(build, replace(found, rule=Rule("class", [], "number", 0.9, 0.9, 0.9))) == before
