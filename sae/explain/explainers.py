"""Explainers: the rule of the index in words, and a model that is shown the evidence.  No torch."""

from __future__ import annotations

from sae.explain.answers import explanation_of
from sae.explain.chat import ChatModel, ask_for
from sae.explain.evidence import Evidence, rule_text
from sae.explain.excerpts import Excerpt
from sae.explain.judging import Judge
from sae.explain.records import RULE_METHOD, Explanation, Score
from sae.explain.templates import Messages, Template, numbered
from sae.store.records import Rule, Vocabulary

MODEL_METHOD = "saescope"
NONE = "(none)"


def by_rule(
    latent: int, rule: Rule | None, n_tokens: int, info: Vocabulary, run: str = "",
) -> tuple[Explanation, Score] | None:
    """Return the rule of a latent as an explanation, with its score, or None if it has no rule.

    The index finds a rule on one half of the contexts and scores it on the other, position by position.  `n_tokens` is
    the number of tokens on which the latent fires.
    """
    text = rule_text(rule, info)
    if rule is None or text is None:
        return None
    explanation = Explanation(latent, text, "rule", method=RULE_METHOD, run=run)
    score = Score(
        latent, "rule", float(rule.f1), n_tokens, explanation.id, f1=float(rule.f1),
        details={"precision": float(rule.precision), "recall": float(rule.recall)})
    return explanation, score


def by_model(judge: Judge, evidence: Evidence, run: str = "") -> Explanation:
    """Return the explanation of a model that sees the evidence.  Raises Unparsable if it gives none."""
    template = judge.templates["explain"]
    text, _ = ask_for(judge.model, explain_messages(template, evidence), explanation_of, judge.templates["retry"],
                      judge.max_tokens)
    return Explanation(evidence.latent, text, "model", method=MODEL_METHOD, model=judge.model.name,
                       prompt_version=template.version, run=run)


def explain_messages(template: Template, evidence: Evidence) -> Messages:
    """Return the prompt that shows the evidence."""
    rule = NONE
    if evidence.rule is not None and evidence.precision is not None and evidence.recall is not None:
        rule = f"{evidence.rule} (precision {evidence.precision:.0%}, recall {evidence.recall:.0%} in texts like these)"
    return template.fill(
        rule=f"Rule found by counting: {rule}", fires_on=_counted(evidence.fires_on),
        followed_by=_counted(evidence.followed_by), promoted=", ".join(evidence.promoted) or NONE,
        suppressed=", ".join(evidence.suppressed) or NONE, top=_shown(evidence.top), bands=_shown(evidence.bands),
        near=_shown(evidence.near, at_centre=True))


def _counted(tokens: list[tuple[str, int]]) -> str:
    return ", ".join(f"{token} ×{n}" for token, n in tokens) or NONE


def _shown(excerpts: list[Excerpt], at_centre: bool = False) -> str:
    return numbered([e.text({e.centre} if at_centre else e.active) for e in excerpts]) if excerpts else NONE


__all__ = ["MODEL_METHOD", "RULE_METHOD", "ChatModel", "by_model", "by_rule", "explain_messages"]
