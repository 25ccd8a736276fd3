"""Evidence of a synthetic build, and the texts of rules."""

from __future__ import annotations

from sae.explain.evidence import evidence_of, rule_text
from sae.explain.excerpts import in_scoring_half
from sae.store.build import Build
from sae.store.records import Rule


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
