"""Evidence of a synthetic build, and the texts of rules."""

from __future__ import annotations

from sae.explain.evidence import evidence_of, rule_in, rule_text
from sae.explain.excerpts import in_scoring_half
from sae.store.build import Build
from sae.store.records import Context, Rule


def context(tokens: list[int], acts: list[float], start: int) -> Context:
    return Context(0, 0, 0, max(acts), 0, "a", 0, start, 0, tokens, acts, 0)


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


def test_a_rule_is_cut_to_what_some_contexts_show() -> None:
    """The contexts overlap at places 1 and 2, which count once."""
    first = context(tokens=[5, 6, 7], acts=[1.0, 0.0, 2.0], start=0)
    second = context(tokens=[6, 7, 5, 9], acts=[0.0, 2.0, 0.0, 1.0], start=1)
    found = rule_in([first, second], Rule("token", [5, 7, 8], None, 0.9, 0.9, 0.9))
    assert found is not None
    assert found.tokens == [5, 7], "8 does not occur"
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    after = rule_in([first, second], Rule("previous", [6, 5], None, 0.9, 0.9, 0.9))
    assert after is not None
    assert after.tokens == [6, 5]
    assert (after.precision, after.recall) == (2 / 3, 2 / 3), "place 1 follows a 5 and does not fire"
    assert rule_in([first], Rule("next", [9], None, 1, 1, 1)) is None
    assert rule_in([first], None) is None
    number = Rule("class", [], "number", 0.8, 0.7, 0.75)
    assert rule_in([first], number) == number
