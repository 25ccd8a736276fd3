"""Explanations that exist already: which of them still lack a score."""

from __future__ import annotations

from dataclasses import replace

from sae.explain.existing import OF, SEEN, unscored, with_text
from sae.explain.explainers import MODEL_METHOD
from sae.explain.records import Explanation, Record, Score

OWN = Explanation(3, "a cat", "model", method=MODEL_METHOD, id="own")
PERSON = Explanation(3, "a lion", "person", "ada", id="person")
OTHER = Explanation(7, "a dog", "model", method="delphi", id="other")
ALL: list[Record] = [OWN, PERSON, OTHER]


def score(one: Explanation, scorer: str = "detection", model: str = "judge", **details: object) -> Score:
    return Score(one.latent, scorer, 0.5, 9, one.id, model=model, details=dict(details))


def test_what_has_every_score_is_left_out() -> None:
    assert unscored(ALL, ["detection"], "judge") == {3: [OWN, PERSON], 7: [OTHER]}
    known = [*ALL, score(OWN), score(OTHER, model="another judge"), Score(3, "intruder", 1.0, 6)]
    assert unscored(known, ["detection", "intruder"], "judge") == {3: [PERSON], 7: [OTHER]}
    assert unscored(known, ["detection", "fuzzing"], "judge") == {3: [OWN, PERSON], 7: [OTHER]}
    assert unscored(known, ["detection"], "judge", again=True) == {3: [OWN, PERSON], 7: [OTHER]}
    embedded = [*ALL, *(score(one, "embedding", "a folder") for one in (OWN, PERSON, OTHER))]
    assert unscored(embedded, ["embedding"], "") == {}
    assert unscored(known, ["intruder"], "judge") == {}


def test_a_score_of_an_earlier_text_does_not_count() -> None:
    known: list[Record] = [PERSON, score(PERSON, of="a lion")]
    assert unscored(known, ["detection"], "judge") == {}
    known[0] = replace(PERSON, text="a tiger")
    assert unscored(known, ["detection"], "judge") == {3: [known[0]]}


def test_a_score_says_its_text_and_who_may_have_seen_the_examples() -> None:
    assert with_text(score(OWN), [OWN, PERSON]).details == {OF: "a cat", SEEN: False}
    assert with_text(score(PERSON, n=1), [OWN, PERSON]).details == {"n": 1, OF: "a lion", SEEN: True}
    latent = Score(3, "intruder", 1.0, 6)
    assert with_text(latent, [OWN]) is latent
