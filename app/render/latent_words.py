"""A latent's flags and its rule in words: what it was found to fire on, never what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.render.token_text import token_label
from sae.store.latent_query import ALIVE
from sae.store.records import CLASSES, FLAGS, Rule, Token

FLAG_NAMES = {
    ALIVE: "alive", "dead": "dead", "dense": "dense", "rare": "rare", "single_token": "single token",
    "position_bound": "position-bound", "punctuation": "punctuation", "number": "numbers", "capital": "capitals",
}
FLAG_WORDS = {ALIVE: "fired at least once", **FLAGS}

SHOWN_F1 = 0.5  # a rule with less says too little to stand in a list

_WORDS = {"token": "fires on", "previous": "fires after", "next": "fires before"}


@dataclass(frozen=True)
class RuleWords:
    """`words`, then the tokens that are meant, as `labels`."""

    words: str
    labels: list[str]
    rule: Rule

    @property
    def good(self) -> bool:
        return self.rule.f1 >= SHOWN_F1


def rule_words(rule: Rule | None, info: Mapping[int, Token]) -> RuleWords | None:
    """The rule as a page says it; None where there is none.  `info` holds the rule's tokens."""
    if rule is None:
        return None
    if rule.class_name is not None:
        return RuleWords(f"fires {CLASSES.get(rule.class_name, rule.class_name)}", [], rule)
    return RuleWords(_WORDS.get(rule.kind, rule.kind), [token_label(info[t]) for t in rule.tokens], rule)
