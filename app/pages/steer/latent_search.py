"""Latents found by a label, a token or a rule, for the field that adds one to the steering form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.library import labels
from app.render.latent_words import rule_words
from app.render.token_text import Row, context_row, token_label
from sae.store.build import Build
from sae.store.latent_query import Filters
from sae.store.records import CLASSES

FOUND = 8
_TOKENS = 3  # as many tokens that contain the text are looked at
_SHARE = 0.25  # of a latent's firings that are on the token, so that latents that fire on everything are not found


@dataclass(frozen=True)
class FoundLatent:
    """A latent, why it was found, and its strongest context."""

    latent: int
    why: str
    label: str
    snippet: Row | None


def find_latents(build: Build, db: Session, sae_id: str, text: str) -> list[FoundLatent]:
    """Return the latents whose label, token or rule contains the text, each once, the best `FOUND` of them."""
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
    info = build.vocabulary
    by_share = []
    for token in build.find_tokens(text, _TOKENS):
        for latent in build.latents("token", True, Filters(), token=token.token, limit=50).rows:
            share = (latent.token_n or 0) / latent.n_tokens if latent.n_tokens else 0.0
            if share >= _SHARE:
                by_share.append((share, latent.latent, f"{share:.0%} of its firings are on {token_label(token)}"))
    yield from ((latent, why) for _, latent, why in sorted(by_share, key=lambda row: (-row[0], row[1])))
    if any(text.lower() in words for words in CLASSES.values()):
        for latent in build.latents("rule", True, Filters(), limit=1000).rows:
            words = rule_words(latent.rule, info)
            if words is not None and text.lower() in words.words:
                yield latent.latent, words.words
