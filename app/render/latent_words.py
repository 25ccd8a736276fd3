"""A latent's flags and its firing rule as text: the tokens on which it fires, never a claim about its meaning."""

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

SHOWN_F1 = 0.5  # a rule with a smaller F1 is too weak to be listed

_WORDS = {"token": "fires on", "previous": "fires after", "next": "fires before"}


@dataclass(frozen=True)
class RuleWords:
    """A firing rule as text: `words`, followed by the rule's tokens as `labels`."""

    words: str
    labels: list[str]
    rule: Rule

    @property
    def good(self) -> bool:
        return self.rule.f1 >= SHOWN_F1


def rule_words(rule: Rule | None, info: Mapping[int, Token]) -> RuleWords | None:
    """Return the rule as text, or None if there is no rule.  `info` has the rule's tokens."""
    if rule is None:
        return None
    if rule.class_name is not None:
        return RuleWords(f"fires {CLASSES.get(rule.class_name, rule.class_name)}", [], rule)
    return RuleWords(_WORDS.get(rule.kind, rule.kind), [token_label(info[t]) for t in rule.tokens], rule)
