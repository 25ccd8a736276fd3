"""The names of latents as text, for lists that show one line a latent.

The name is the chosen or best scored explanation, else the rule of the build, as in `app.library.explanations`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from app.library import explanations
from app.render.latent_words import SHOWN_F1, rule_words
from sae.store.build import Build
from sae.store.latent_search import rules_of

_cached: WeakKeyDictionary[Build, dict[int, str]] = WeakKeyDictionary()  # a build never changes


def names_of(db: Session, build: Build, sae_id: str, latents: Collection[int]) -> dict[int, str]:
    """Return the names of some latents; one without a good name is left out."""
    return rule_names(build, latents) | {
        latent: name.text for latent, name in explanations.names(db, sae_id, latents).items()}


def all_names(db: Session, build: Build, sae_id: str) -> ChainMap[int, str]:
    """Return the names of all latents; the first of its maps has those that do not come from rules.

    The rules are put into words once for each open build.
    """
    rules = _cached.get(build)
    if rules is None:
        rules = _cached[build] = rule_names(build)
    return ChainMap(explanations.texts(db, sae_id), rules)


def rule_names(build: Build, latents: Collection[int] | None = None) -> dict[int, str]:
    """Return the good rules of these latents (None: of all) in words."""
    found = {}
    for latent, rule in rules_of(build, SHOWN_F1, latents):
        words = rule_words(rule, build.vocabulary)
        assert words is not None
        found[latent] = " ".join([words.words, *words.labels])
    return found
