"""Latents found by a text: by what is written about them, their rule, the tokens they fire on, the logits they raise.

Where there are word embeddings, explanations of a similar meaning are found, too.

Each of these is a reason with a score; the scores of a latent's best reason of each kind add up.  Of a text of several
words, every word is looked up as a token, and what is written is found where it has all of them.  Where a model has
read such a text, the latents that are active on it are found, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.library import explanations, meaning
from app.library.explanation_texts import LABEL, NOTE, TAG, FoundText, excerpt
from app.render.latent_words import SHOWN_F1, rule_words
from app.render.numbers import number, percent, signed
from app.render.token_text import token_label
from sae.explain.records import RULE_METHOD
from sae.store.build import Build
from sae.store.latent_search import TokenHit, explained_as, firing_on, raising, with_rule
from sae.store.records import CLASSES, Rule, Token

MAX_WORDS = 4
EXPLANATIONS, BEST_EXPLANATIONS = 500, 100  # of each SAE: that are ranked, and the best of these, that are kept
_TOKENS_OF_A_WORD = 4  # `raise`, ` raise`, `Raise`, ` Raise`
# The score of a reason: its kind's own, plus a share from 0 to 1 of how well it fits.
_LABEL, _TAG, _EXPLANATION, _NOTE, _COMMENT = 4.0, 3.5, 3.0, 2.5, 2.0
_RULE, _ACTIVE, _MEANING, _FIRES, _LOGIT = 2.0, 2.0, 1.5, 1.0, 0.0


@dataclass(frozen=True)
class Reason:
    """A reason for which a latent was found: some words, tokens, and a number in words."""

    kind: str
    score: float
    words: str
    tokens: list[str] = field(default_factory=list)
    value: str = ""
    token: int | None = None  # the token on which the latent fires


@dataclass
class FoundLatent:
    """A latent with the reasons for which it was found, the best one of each kind."""

    latent: int
    reasons: dict[str, Reason] = field(default_factory=dict)
    sae: str = ""

    @property
    def score(self) -> float:
        return sum(reason.score for reason in self.reasons.values())

    @property
    def best(self) -> list[Reason]:
        """Return the reasons, best first."""
        return sorted(self.reasons.values(), key=lambda reason: -reason.score)

    @property
    def token(self) -> int | None:
        """Return the token on which it fires, where that is a reason."""
        return self.reasons["fires"].token if "fires" in self.reasons else None


class Hit(NamedTuple):
    """A reason before it is put into words, which costs more than finding it."""

    latent: int
    kind: str
    score: float
    say: Callable[[], Reason]


Hits = dict[str, list[Hit]]  # by the id of their SAE


def is_phrase(text: str) -> bool:
    """Return whether a text is more than one word, so that a model can say which latents are active on it."""
    return len(text.split()) > 1


def active_on(latent: int, share: float, token: str, value: str) -> Hit:
    """Return the hit of a latent that is active on the text, at most `share` of its own maximum, at `token`."""
    score = _ACTIVE + min(max(share, 0.0), 1.0)
    return Hit(latent, "active", score, lambda: Reason("active", score, "active on this text, most on", [token], value))


def search_latents(db: Session, build: Build, sae_id: str, text: str, limit: int = 40) -> list[FoundLatent]:
    """Return the latents of an SAE that fit `text`, best first."""
    return search_saes(db, [sae_id], [(sae_id, build)], text, limit)


def search_saes(
    db: Session, sae_ids: Collection[str], builds: Iterable[tuple[str, Build]], text: str, limit: int = 40,
    active: Mapping[str, Sequence[Hit]] | None = None,
) -> list[FoundLatent]:
    """Return the latents of several SAEs that fit `text`, best first; `builds` yields each SAE with its build.

    `active` are hits by SAE (see `active_on`) where a model has read the text.
    """
    written = _written(db, sae_ids, text)
    best: list[tuple[float, str, int, dict[str, Hit]]] = []
    for sae_id, build in builds:
        found: dict[int, dict[str, Hit]] = {}
        literal = written.get(sae_id, [])
        for hit in (*literal, *_of_build(build, text), *_by_meaning(db, sae_id, text, literal),
                    *(active or {}).get(sae_id, ())):
            kinds = found.setdefault(hit.latent, {})
            if hit.kind not in kinds or hit.score > kinds[hit.kind].score:
                kinds[hit.kind] = hit
        best += [(-sum(hit.score for hit in kinds.values()), sae_id, latent, kinds) for latent, kinds in found.items()]
    return [FoundLatent(latent, {kind: hit.say() for kind, hit in kinds.items()}, sae_id)
            for _, sae_id, latent, kinds in nsmallest(limit, best, key=lambda row: row[:3])]


def _written(db: Session, sae_ids: Collection[str], text: str) -> Hits:
    """Return what people and models wrote about latents of these SAEs that fits the text."""
    out: Hits = {}
    for sae_id, rows in explanations.search(db, sae_ids, text, EXPLANATIONS).items():
        labelled = [row for row in rows if row.method == LABEL]
        others = [row for row in rows if row.method != LABEL][:BEST_EXPLANATIONS]
        out[sae_id] = [_said(row) for row in (*labelled, *others)]
    for sae_id, rows in explanations.search_notes(db, sae_ids, text, EXPLANATIONS).items():
        out.setdefault(sae_id, []).extend(_noted(row, text) for row in rows)
    return out


def _said(row: FoundText) -> Hit:
    """Return the hit of a label or another explanation; one that repeats the rule of the build counts as the rule."""
    kinds = {LABEL: ("label", _LABEL), RULE_METHOD: ("rule", _RULE)}
    kind, least = kinds.get(row.method, ("explanation", _EXPLANATION))
    return _worded(kind, row.latent, row.text, least + row.share)


def _noted(row: FoundText, text: str) -> Hit:
    """Return the hit of a tag, a note or a comment; of a long one, the part around the text is shown."""
    score = _TAG if row.method == TAG else (_NOTE if row.method == NOTE else _COMMENT) + row.share / 2
    return _worded(row.method, row.latent, excerpt(row.text, text), score)


def _worded(kind: str, latent: int, said: str, score: float) -> Hit:
    return Hit(latent, kind, score, lambda: Reason(kind, score, kind, value=said))


def _of_build(build: Build, text: str) -> Iterator[Hit]:
    """Yield what the build itself says."""
    for latent, said in explained_as(build, text):
        yield _worded("explanation", latent, said, _EXPLANATION)
    tokens = {token.token: token for word in text.split()[:MAX_WORDS] for token in _meant(build, word)}
    yield from _by_rule(build, tokens, text)
    yield from _by_tokens(build, tokens)


def _by_meaning(db: Session, sae_id: str, text: str, literal: list[Hit]) -> Iterator[Hit]:
    """Yield explanations near to the text, except those that contain it and were found before."""
    near = meaning.near(db, sae_id, text)
    known = {(hit.latent, hit.say().value) for hit in literal if near and hit.kind in ("label", "explanation")}
    for latent, said, cosine in near:
        if (latent, said) in known:
            continue
        reason = Reason("meaning", _MEANING + cosine, "similar meaning:", value=said)
        yield Hit(latent, reason.kind, reason.score, partial(_same, reason))


def _same(reason: Reason) -> Reason:
    return reason


def _meant(build: Build, word: str) -> list[Token]:
    """Return the tokens that are the word, with or without a space; else in another case; else some that contain it."""
    found = {token.token: token for form in dict.fromkeys((word, word.lower(), word.capitalize()))
             for token in build.find_tokens(form) if token.n != 0}
    bare = {token: token.piece.strip(b" ").decode(errors="replace") for token in found.values()}
    exact = [token for token, text in bare.items() if text == word]
    alike = [token for token, text in bare.items() if text.casefold() == word.casefold()]
    return (exact or alike or list(bare))[:_TOKENS_OF_A_WORD]


def _by_rule(build: Build, tokens: Iterable[int], text: str) -> Iterator[Hit]:
    classes = [name for name, words in CLASSES.items() if text.casefold() in words.casefold()]
    for latent, rule in with_rule(build, tokens, classes, SHOWN_F1):
        about = _RULE if rule.kind in ("token", "class") else _FIRES  # a rule may also name the token before or after
        yield Hit(latent, "rule", about + rule.f1, partial(_rule_reason, rule, build, about + rule.f1))


def _rule_reason(rule: Rule, build: Build, score: float) -> Reason:
    said = rule_words(rule, build.vocabulary)
    assert said is not None
    value = f"precision {percent(rule.precision)}, recall {percent(rule.recall)}"
    return Reason("rule", score, said.words, said.labels, value)


def _by_tokens(build: Build, tokens: dict[int, Token]) -> Iterator[Hit]:
    for hit in firing_on(build, tokens):
        yield Hit(hit.latent, "fires", _FIRES + hit.f1, partial(_firing_reason, hit, tokens[hit.token]))
    rises = raising(build, tokens)
    top = max((value for _, _, value in rises), default=1.0)
    for latent, token, value in rises:
        score = _LOGIT + value / top
        yield Hit(latent, "logit", score, partial(_logit_reason, score, tokens[token], value))


def _firing_reason(hit: TokenHit, token: Token) -> Reason:
    share = f", {percent(hit.n / hit.n_tokens)} of its firings" if hit.n_tokens else ""
    lift = f"lift {number(hit.lift, 1)}×" if hit.lift is not None else f"{hit.n} firings"
    return Reason("fires", _FIRES + hit.f1, "fires on", [token_label(token)], f"{lift}{share}", hit.token)


def _logit_reason(score: float, token: Token, value: float) -> Reason:
    return Reason("logit", score, "raises the logit of", [token_label(token)], signed(value))
