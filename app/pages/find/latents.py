"""The search for latents as pages show it: the scope, and the ranked list with names, reasons and contexts.

The search box, the steering form, lists, the comparison and the map use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Label, Sae
from app.library import explanations, labels
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.explanations import Name
from app.library.latent_search import FoundLatent, Hit, Reason, search_saes
from app.render.latent_words import RuleWords, rule_words
from app.render.token_text import Row, context_row
from app.web.parameters import whole_number
from sae.errors import UserError
from sae.store.build import Build
from sae.store.records import RULE_COLUMNS, rule_of

Active = Mapping[str, Sequence[Hit]]  # by SAE
_WRITTEN = {"label": "its label", "explanation": "its explanation", "meaning": "its explanation has a similar meaning"}
_NUMBER = 10.0  # the score of a latent whose number is the text


@dataclass(frozen=True)
class Result:
    """A latent that was found, as a page shows it; `rule` where it is good enough for a list.

    `name` is the chosen or best scored explanation, or "".
    """

    sae: Sae
    found: FoundLatent
    density: float | None
    label: Label | None
    rule: RuleWords | None
    name: str
    snippet: Row | None
    starred: bool = False

    @property
    def title(self) -> str:
        """The name, or else the rule, as text."""
        return self.name or (" ".join([self.rule.words, *self.rule.labels]) if self.rule else "")

    @property
    def why(self) -> list[Reason]:
        """The reasons, best first, without repeating a text that is shown as the name, or in an earlier reason."""
        out: list[Reason] = []
        for reason in self.found.best:
            if reason.kind == "rule" and (self.rule or reason.value == self.name):
                figures = reason.value if reason.words != "rule" else ""  # without them, an explanation repeats it
                reason = replace(reason, words="its rule", tokens=[], value=figures)
            elif reason.kind in _WRITTEN and reason.value in (self.name, self.title):
                reason = replace(reason, words=_WRITTEN[reason.kind], value="")
            if reason.kind not in _WRITTEN or not any(reason.value and one.value == reason.value for one in out):
                out.append(reason)
        return out


@dataclass(frozen=True)
class Scope:
    """The SAEs that can be searched, the one that is meant (None: all), and one whose model can read a text."""

    every: list[Sae]
    current: Sae | None
    reader: Sae | None

    @property
    def chosen(self) -> list[Sae]:
        return [self.current] if self.current else self.every


def find_scope(catalog: Catalog, sae_id: str) -> Scope:
    """Return the SAEs that are not hidden, and the one that is asked for."""
    every = [row for row in catalog.list_saes() if not row.hidden or row.id == sae_id]
    current = next((row for row in every if row.id == sae_id), every[0] if len(every) == 1 else None)
    readers = [row for row in ([current] if current else every) if row.current_build and not row.weightless]
    return Scope(every, current, readers[0] if readers else None)


def find_latents(
    db: Session, builds: Builds, saes: list[Sae], text: str, limit: int, active: Active | None = None, *,
    bare: bool = False, visit: Callable[[Sae, Build], None] = lambda sae, build: None,
) -> list[Result]:
    """Return the latents of these SAEs that fit the text, best first; `active` are those that a model found.

    With `bare`, they have no context, rule and name: these take longer than the search.  `visit` is called with each
    build that is searched.
    """
    if not text:
        return []

    def opened() -> Iterator[tuple[str, Build]]:
        for sae, build in open_builds(builds, saes):
            yield sae.id, build
            visit(sae, build)

    found = search_saes(db, [sae.id for sae in saes], opened(), text, limit, active)
    return list(_results(db, builds, {sae.id: sae for sae in saes}, found, bare))


def with_number(saes: list[Sae], text: str) -> list[Sae]:
    """Return the SAEs that have a latent of this number."""
    return [row for row in saes if whole_number(text, row.n_latents) is not None]


def numbered(saes: list[Sae], text: str, active: Active) -> Active:
    """Add the latents whose number is the text, for pages that do not open them."""
    out = {sae_id: list(hits) for sae_id, hits in active.items()}
    for sae in with_number(saes, text):
        out.setdefault(sae.id, []).append(Hit(int(whole_number(text) or 0), "number", _NUMBER, _its_number))
    return out


def _its_number() -> Reason:
    return Reason("number", _NUMBER, "its number")


def open_builds(builds: Builds, saes: list[Sae]) -> Iterator[tuple[Sae, Build]]:
    """Open the builds of these SAEs one after another; a build that is gone or damaged is skipped."""
    for sae in saes:
        if sae.current_build is None:
            continue
        try:
            with builds.use(sae.id, sae.current_build) as build:
                yield sae, build
        except UserError:  # the SAE's own pages say so
            continue


def _results(
    db: Session, builds: Builds, saes: dict[str, Sae], found: list[FoundLatent], bare: bool,
) -> Iterator[Result]:
    """Yield what a page shows of the latents: the context is on the token on which the latent was found to fire."""
    of_sae: dict[str, list[FoundLatent]] = {}
    for one in found:
        of_sae.setdefault(one.sae, []).append(one)
    written = labels.of_saes(db, {sae_id: [one.latent for one in some] for sae_id, some in of_sae.items()})
    explained = explanations.explained_saes(db, of_sae) if not bare else ()
    shown: dict[tuple[str, int], Result] = {}
    for sae, build in open_builds(builds, [saes[sae_id] for sae_id in of_sae]):
        found_here = [one.latent for one in of_sae[sae.id]]
        names = explanations.names(db, sae.id, found_here) if sae.id in explained else {}
        if bare:
            shown |= {(sae.id, one.latent): Result(
                sae, one, facts["density"], written.get((sae.id, one.latent)), None, "", None)
                for one in of_sae[sae.id] if (facts := build.facts(one.latent, "density"))}
            continue
        for one in of_sae[sae.id]:
            if facts := build.facts(one.latent, "density", "max_act", *RULE_COLUMNS):
                shown[sae.id, one.latent] = _result(
                    build, sae, one, facts, written.get((sae.id, one.latent)), names.get(one.latent))
    for one in found:
        if result := shown.get((one.sae, one.latent)):  # none for a label of a latent that this build does not have
            yield result


def _result(
    build: Build, sae: Sae, one: FoundLatent, facts: dict[str, Any], label: Label | None, name: Name | None,
) -> Result:
    rule = rule_words(rule_of(facts), build.vocabulary)
    context = build.snippets([one.latent], one.token).get(one.latent)
    good = rule if rule and rule.good else None
    said = name.text if name and not (good and name.kind == "rule") else ""  # a rule is not said twice
    top = facts["max_act"] or (context.act if context else 0.0)
    return Result(sae, one, facts["density"], label, good, said,
                  context_row(context, build.vocabulary, top, "snippet") if context else None)
