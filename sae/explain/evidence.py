"""Evidence about a latent that an explainer is shown, from the explaining half of the documents.  No torch.

The contexts, the counts of tokens in them and the rule come from that half alone: nothing that is counted over the
whole text is shown.  The logits depend on the weights alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sae.explain.excerpts import Excerpt, cut_context, document_of, in_scoring_half
from sae.explain.half_rules import find_rule
from sae.store.build import Build
from sae.store.records import CLASSES, Context, Latent, Rule, Vocabulary
from sae.store.schema import NEAR_BAND, TOP_BAND

N_TOP, N_BANDS, N_NEAR, N_TOKENS = 8, 8, 5, 10
_RULES = {"token": "fires on", "previous": "fires after", "next": "fires before"}


@dataclass(frozen=True)
class Evidence:
    """What an explainer sees.  `fires_on` and `followed_by` are tokens with their counts in the contexts."""

    latent: int
    rule: str | None
    precision: float | None
    recall: float | None
    fires_on: list[tuple[str, int]]
    followed_by: list[tuple[str, int]]
    top: list[Excerpt]
    bands: list[Excerpt]
    near: list[Excerpt]
    promoted: list[str]
    suppressed: list[str]

    @property
    def excerpts(self) -> list[Excerpt]:
        return [*self.top, *self.bands, *self.near]


def evidence_of(build: Build, found: Latent) -> Evidence:
    """Collect the evidence about a latent.  Its lists of contexts are empty if it fired in no explaining document."""
    info = build.vocabulary
    contexts = [c for c in build.contexts(found.latent) if not in_scoring_half(document_of(c))]
    firing = [c for c in contexts if c.band != NEAR_BAND]
    own, after = _counts(firing)
    rule = find_rule(contexts, info)
    return Evidence(
        found.latent, rule_text(rule, info), rule.precision if rule else None, rule.recall if rule else None,
        _tokens(own, info), _tokens(after, info),
        top=_cut([c for c in firing if c.band == TOP_BAND][:N_TOP], info),
        bands=_cut(spread([c for c in firing if c.band != TOP_BAND], N_BANDS), info),
        near=_cut([c for c in contexts if c.band == NEAR_BAND][:N_NEAR], info),
        promoted=[quoted(t, info) for t, _ in found.logit_pos[:N_TOKENS]],
        suppressed=[quoted(t, info) for t, _ in found.logit_neg[:N_TOKENS]])


def rule_text(rule: Rule | None, info: Vocabulary) -> str | None:
    """Return a rule in words, such as `fires on " raise", " return"`, or None if there is no rule."""
    if rule is None:
        return None
    if rule.class_name is not None:
        return f"fires {CLASSES.get(rule.class_name, rule.class_name)}"
    return f"{_RULES.get(rule.kind, rule.kind)} {', '.join(quoted(token, info) for token in rule.tokens)}"


def quoted(token: int, info: Vocabulary) -> str:
    """Return a token between quotes, its control characters escaped."""
    piece = info[token].piece
    return json.dumps(piece.decode("utf-8", "replace") if piece else f"⟨{token}⟩", ensure_ascii=False)


def spread(contexts: Sequence[Context], n: int) -> list[Context]:
    """Return at most `n` contexts, in turn from each band."""
    ranked = sorted(contexts, key=lambda c: (c.rank, c.band))
    return sorted(ranked[:n], key=lambda c: (c.band, c.rank))


def _cut(contexts: Iterable[Context], info: Vocabulary) -> list[Excerpt]:
    return [cut_context(context, info) for context in contexts]


def _counts(contexts: Iterable[Context]) -> tuple[Counter[int], Counter[int]]:
    """Count the tokens on which the latent fires in these contexts, and the tokens that follow."""
    own: Counter[int] = Counter()
    after: Counter[int] = Counter()
    for tokens, i, act in _places(contexts):
        if act > 0:
            own[tokens[i]] += 1
            if i + 1 < len(tokens):
                after[tokens[i + 1]] += 1
    return own, after


def _places(contexts: Iterable[Context]) -> Iterator[tuple[list[int], int, float]]:
    """Yield (tokens, index, activation) of every place once: contexts of several bands may be one text."""
    seen: set[tuple[int, int]] = set()
    for c in contexts:
        for i, act in enumerate(c.acts):
            place = (c.ctx, (c.start or 0) + i)
            if place not in seen:
                seen.add(place)
                yield c.tokens, i, act


def _tokens(counts: Counter[int], info: Vocabulary) -> list[tuple[str, int]]:
    return [(quoted(token, info), n) for token, n in counts.most_common(N_TOKENS)]
