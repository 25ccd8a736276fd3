"""Latents found by a label, by tokens that they fire on or promote, or by a rule, for the form that steers them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.library import labels
from app.render.latent_words import rule_words
from app.render.token_text import Row, context_row, token_label
from sae.store.build import Build
from sae.store.latent_query import LOGIT_SORT, Filters
from sae.store.records import CLASSES, Token

FOUND = 8
_TOKENS = 12  # as many tokens that contain the text are looked at
_SHARE = 0.1  # of a latent's firings that are on these tokens, so that latents that fire on everything are not found
_OF_A_KIND = 4  # latents that fire on the text before others are shown


@dataclass(frozen=True)
class FoundLatent:
    """A latent, why it was found, and its strongest context."""

    latent: int
    why: str
    label: str
    snippet: Row | None


def find_latents(build: Build, db: Session, sae_id: str, text: str) -> list[FoundLatent]:
    """Return the latents whose label, tokens or rule contain the text, each once, the best `FOUND` of them."""
    found: dict[int, str] = {}
    for latent, why in _matches(build, db, sae_id, text.strip()[:200]):
        found.setdefault(latent, why)
        if len(found) == FOUND:
            break
    snippets, info = build.snippets(found), build.vocabulary
    written = labels.of_latents(db, sae_id, list(found))
    return [FoundLatent(
        latent, why, written[latent].text if latent in written else "",
        context_row(snippets[latent], info, snippets[latent].act, "snippet") if latent in snippets else None)
        for latent, why in found.items()]


def _matches(build: Build, db: Session, sae_id: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (latent, reason), the surest first; a latent may come more than once."""
    if not text:
        return
    for row in labels.search(db, text, sae_id, limit=FOUND):
        if row.latent < build.n_latents:
            yield row.latent, "label" if text.lower() in row.text.lower() else "note"
    tokens = build.find_tokens(text, _TOKENS)
    firing = _by_share(build, tokens)
    yield from firing[:_OF_A_KIND]
    for token in tokens[:2]:
        for latent in build.latents(LOGIT_SORT, True, Filters(logit=token.token), limit=2).rows:
            yield latent.latent, f"promotes {token_label(token)}"
    if any(text.lower() in words for words in CLASSES.values()):
        yield from _by_class(build, text.lower())
    yield from firing[_OF_A_KIND:]


def _by_share(build: Build, tokens: Sequence[Token]) -> list[tuple[int, str]]:
    """Return the latents by the share of their firings that is on these tokens, the largest first."""
    shares: dict[int, float] = defaultdict(float)
    seen: dict[int, list[str]] = defaultdict(list)
    for token in tokens:
        for row in build.latents("token", True, Filters(), token=token.token, limit=50).rows:
            if row.token_n and row.n_tokens:
                shares[row.latent] += row.token_n / row.n_tokens
                seen[row.latent].append(token_label(token))
    kept = sorted((latent for latent, share in shares.items() if share >= _SHARE), key=lambda n: (-shares[n], n))
    return [(latent, f"{shares[latent]:.0%} of its firings are on {', '.join(seen[latent][:3])}") for latent in kept]


def _by_class(build: Build, text: str) -> Iterator[tuple[int, str]]:
    """Yield the latents with the best rules that name a class of tokens whose words contain the text."""
    for row in build.latents("rule", True, Filters(), limit=1000).rows:
        words = rule_words(row.rule, build.vocabulary)
        if words is not None and not words.labels and text in words.words:
            yield row.latent, words.words
