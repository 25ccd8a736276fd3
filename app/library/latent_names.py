"""The names of latents as text, for lists that show one line a latent.

The name is the chosen or best scored explanation, else the rule of the build, as in `app.library.explanations`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sqlalchemy.orm import Session

from app.library import explanations
from app.render.latent_words import SHOWN_F1, rule_words
from sae.store.build import Build
from sae.store.latent_search import rules_of
from sae.store.records import RULE_COLUMNS, rule_of


def names_of(db: Session, build: Build, sae_id: str, latents: Collection[int]) -> dict[int, str]:
    """Return the names of some latents; one without a good name is left out."""
    return rule_names(build, latents) | {
        latent: name.text for latent, name in explanations.names(db, sae_id, latents).items()}


class AllNames(Mapping[int, str]):
    """The names of all latents of a build; a rule is put into words when it is asked for.

    `texts` has those that do not come from rules.
    """

    def __init__(self, db: Session, build: Build, sae_id: str) -> None:
        self.texts, self._build = explanations.texts(db, sae_id), build

    def __getitem__(self, latent: int) -> str:
        if latent in self.texts:
            return self.texts[latent]
        rule = rule_of(self._build.facts(latent, *RULE_COLUMNS) or dict.fromkeys(RULE_COLUMNS))
        if rule is None or not (rule.f1 or 0.0) >= SHOWN_F1:
            raise KeyError(latent)
        words = rule_words(rule, self._build.vocabulary)
        assert words is not None
        return " ".join([words.words, *words.labels])

    def __iter__(self) -> Iterator[int]:
        return (latent for latent in range(self._build.n_latents) if latent in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def rule_names(build: Build, latents: Collection[int]) -> dict[int, str]:
    """Return the good rules of these latents in words."""
    found = {}
    for latent, rule in rules_of(build, SHOWN_F1, latents):
        words = rule_words(rule, build.vocabulary)
        assert words is not None
        found[latent] = " ".join([words.words, *words.labels])
    return found
