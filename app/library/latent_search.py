"""Latents found by a text: by their label, their rule, the tokens on which they fire, and the logits that they raise.

Where there are word embeddings, explanations of a similar meaning are found, too.

Each of these is a reason with a score; the scores of a latent's best reason of each kind add up.  Of a text of several
words, every word is looked up as a token, and the label is compared with the whole text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.db.tables import Label
from app.library import explanations, labels, meaning
from app.render.latent_words import SHOWN_F1, rule_words
from app.render.numbers import number, percent, signed
from app.render.token_text import token_label
from sae.store.build import Build
from sae.store.latent_search import explained_as, firing_on, raising, with_rule
from sae.store.records import CLASSES, Token

MAX_WORDS = 4
_TOKENS_OF_A_WORD = 4  # `raise`, ` raise`, `Raise`, ` Raise`
# The score of a reason: its kind's own, plus a share from 0 to 1 of how well it fits.
_LABEL, _TAG, _EXPLANATION, _NOTE, _RULE, _MEANING, _FIRES, _LOGIT = 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.0


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


def search_latents(db: Session, build: Build, sae_id: str, text: str, limit: int = 40) -> list[FoundLatent]:
    """Return the latents of an SAE that fit `text`, best first."""
    found: dict[int, FoundLatent] = {}
    for latent, reason in _reasons(db, build, sae_id, text):
        reasons = found.setdefault(latent, FoundLatent(latent)).reasons
        if reason.kind not in reasons or reason.score > reasons[reason.kind].score:
            reasons[reason.kind] = reason
    return sorted(found.values(), key=lambda one: (-one.score, one.latent))[:limit]


def _reasons(db: Session, build: Build, sae_id: str, text: str) -> Iterator[tuple[int, Reason]]:
    for label in labels.search(db, text, sae_id):
        yield label.latent, _label_reason(label, text)
    for tag, latents in labels.tagged(db, sae_id).items():
        if tag.casefold() == text.casefold():
            yield from ((latent, Reason("tag", _TAG, "tag", value=tag)) for latent in latents)
    for row in explanations.search(db, sae_id, text):
        yield row.latent, Reason("explanation", _EXPLANATION, "explanation", value=row.text)
    for latent, said in explained_as(build, text):
        yield latent, Reason("explanation", _EXPLANATION, "explanation", value=said)
    for latent, said, cosine in meaning.near(db, sae_id, text):
        yield latent, Reason("meaning", _MEANING + cosine, "similar meaning:", value=said)
    tokens = {token.token: token for word in text.split()[:MAX_WORDS] for token in _meant(build, word)}
    yield from _by_rule(build, tokens, text)
    yield from _by_tokens(build, tokens)


def _label_reason(label: Label, text: str) -> Reason:
    said, wanted = label.text.casefold(), text.casefold()
    if wanted not in said:
        return Reason("note", _NOTE, "note", value=label.note)
    return Reason("label", _LABEL + (1.0 if said == wanted else 0.5 if said.startswith(wanted) else 0.0), "label")


def _meant(build: Build, word: str) -> list[Token]:
    """Return the tokens that are the word, with or without a space; else in another case; else some that contain it."""
    found = {token.token: token for form in (word, word.lower(), word.capitalize())
             for token in build.find_tokens(form) if token.n != 0}
    bare = {token: token.piece.strip(b" ").decode(errors="replace") for token in found.values()}
    exact = [token for token, text in bare.items() if text == word]
    alike = [token for token, text in bare.items() if text.casefold() == word.casefold()]
    return (exact or alike or list(bare))[:_TOKENS_OF_A_WORD]


def _by_rule(build: Build, tokens: Iterable[int], text: str) -> Iterator[tuple[int, Reason]]:
    classes = [name for name, words in CLASSES.items() if text.casefold() in words.casefold()]
    for latent, rule in with_rule(build, tokens, classes, SHOWN_F1):
        said = rule_words(rule, build.vocabulary)
        assert said is not None
        value = f"precision {percent(rule.precision)}, recall {percent(rule.recall)}"
        about = _RULE if rule.kind in ("token", "class") else _FIRES  # a rule may also name the token before or after
        yield latent, Reason("rule", about + rule.f1, said.words, said.labels, value)


def _by_tokens(build: Build, tokens: dict[int, Token]) -> Iterator[tuple[int, Reason]]:
    for hit in firing_on(build, tokens):
        share = f", {percent(hit.n / hit.n_tokens)} of its firings" if hit.n_tokens else ""
        lift = f"lift {number(hit.lift, 1)}×" if hit.lift is not None else f"{hit.n} firings"
        yield hit.latent, Reason(
            "fires", _FIRES + hit.f1, "fires on", [token_label(tokens[hit.token])], f"{lift}{share}", hit.token)
    rises = raising(build, tokens)
    top = max((value for _, _, value in rises), default=1.0)
    for latent, token, value in rises:
        yield latent, Reason(
            "logit", _LOGIT + value / top, "raises the logit of", [token_label(tokens[token])], signed(value))
