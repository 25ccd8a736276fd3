"""The search box of every page: one ranked list of latents, of one SAE or of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Label, Sae, User
from app.library import explanations, labels, stars
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.explanations import Name
from app.library.latent_search import FoundLatent, Hit, is_phrase, search_saes
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, UserDep
from app.pages.explore.latent_views import snippet
from app.render.latent_words import RuleWords, rule_words
from app.render.token_text import Row, token_label
from app.web.parameters import whole_number
from app.web.templating import render
from sae.errors import UserError
from sae.store.build import Build
from sae.store.records import RULE_COLUMNS, rule_of

router = APIRouter(include_in_schema=False)

LISTED = 50
TOKENS_LISTED = 12


@dataclass(frozen=True)
class Result:
    """A latent that was found, as the page shows it; `rule` where it is good enough for a list.

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


@dataclass(frozen=True)
class TokenLink:
    """A token that contains the text, with the address of the latents that fire on it."""

    sae: Sae
    token: str
    latents: str
    n: int | None


@dataclass(frozen=True)
class Read:
    """What the model says of a phrase: hits by SAE, or why it has not answered: `waiting`, or `fault`."""

    active: Mapping[str, Sequence[Hit]]
    waiting: str = ""
    fault: str = ""


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


@router.get("/search.json")
def search_json(
    db: SessionDep, catalog: CatalogDep, builds: BuildsDep, q: str = "", sae: str = "",
) -> JSONResponse:
    """Return the latents that fit the text or have that number, labels and notes, and tokens that contain it."""
    return found_json(db, builds, find_scope(catalog, sae), q.strip()[:200])


def found_json(db: Session, builds: Builds, scope: Scope, text: str, read: Read | None = None) -> JSONResponse:
    """Return the JSON of a search."""
    results, tokens = _search(db, builds, scope.chosen, text, read.active if read else {}, numbers_only=True)
    by_sae: dict[str, list[dict[str, object]]] = {row.id: [] for row in scope.chosen if text}
    for link in tokens:
        by_sae[link.sae.id].append({"token": link.token, "latents": link.latents, "n": link.n})
    labelled = labels.search(db, text, [row.id for row in scope.chosen], limit=100) if text else []
    return JSONResponse({
        "q": text, "tokens": by_sae,
        "numbers": [f"/{row.id}/{whole_number(text)}" for row in _with_number(scope.every, text)],
        "latents": [{"sae": result.sae.id, "latent": result.found.latent, "score": result.found.score,
                     "label": result.label.text if result.label else "", "density": result.density,
                     "reasons": [asdict(reason) for reason in result.found.best]} for result in results],
        "labels": [{"sae": row.sae_id, "latent": row.latent, "text": row.text, "note": row.note, "tags": row.tags}
                   for row in labelled]})


@router.get("/search")
def search(
    request: Request, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, user: UserDep, q: str = "", sae: str = "",
) -> Response:
    """Open the latent of a number, or list latents by label, rule, token and logit, of one SAE or of all.

    For a phrase, the page asks `/search/found` for the same list with the latents that are active on it.
    """
    text, scope = q.strip()[:200], find_scope(catalog, sae)
    if scope.current is not None and _with_number([scope.current], text):
        return RedirectResponse(f"/{scope.current.id}/{whole_number(text)}", 303)
    return render(request, "explore/search.html", json_url=f"/search.json?{request.url.query}",
                  **found_context(db, builds, user, scope, text))


def found_context(
    db: Session, builds: Builds, user: User | None, scope: Scope, text: str, read: Read | None = None,
) -> dict[str, Any]:
    """Return what the list of a search shows; `read` is None where the model was not asked."""
    results, tokens = _search(db, builds, scope.chosen, text, read.active if read else {})
    if user is not None:
        mine = stars.of_saes(db, user, {result.sae.id for result in results})
        results = [replace(one, starred=(one.sae.id, one.found.latent) in mine) for one in results]
    current = {"sae": scope.current.id} if scope.current else {}
    on_text = {"q": text, **(current or {"model": scope.reader.model if scope.reader else ""})}
    return {
        "current_sae": scope.current, "search_text": text, "q": text, "results": results, "tokens": tokens,
        "numbers": _with_number(scope.every, text), "n_saes": len(scope.every), "read": read,
        "unread": [row for row in scope.every if not row.current_build], "phrase": is_phrase(text),
        "on_text": f"/search/text?{urlencode(on_text)}" if scope.reader else "",
        "found_url": f"/search/found?{urlencode({'q': text, **current})}" if scope.reader else ""}


def _with_number(saes: list[Sae], text: str) -> list[Sae]:
    """Return the SAEs that have a latent of this number."""
    return [row for row in saes if whole_number(text, row.n_latents) is not None]


def _search(
    db: Session, builds: Builds, saes: list[Sae], text: str, active: Mapping[str, Sequence[Hit]],
    numbers_only: bool = False,
) -> tuple[list[Result], list[TokenLink]]:
    """Return the latents of these SAEs that fit the text, best first, and the tokens that contain it.

    With `numbers_only`, the results have no context, rule and name: they take longer than the search.
    """
    tokens: list[TokenLink] = []
    if not text:
        return [], tokens

    def opened() -> Iterator[tuple[str, Build]]:
        for sae, build in _open_builds(builds, saes):
            yield sae.id, build
            tokens.extend(
                TokenLink(sae, token_label(t), f"/{sae.id}/latents?{urlencode({'token': f'#{t.token}'})}", t.n)
                for t in build.find_tokens(text, TOKENS_LISTED) if t.n != 0)

    found = search_saes(db, [sae.id for sae in saes], opened(), text, LISTED, active)
    return list(_results(db, builds, {sae.id: sae for sae in saes}, found, numbers_only)), tokens


def _open_builds(builds: Builds, saes: list[Sae]) -> Iterator[tuple[Sae, Build]]:
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
    db: Session, builds: Builds, saes: dict[str, Sae], found: list[FoundLatent], numbers_only: bool,
) -> Iterator[Result]:
    """Yield what the page shows of the latents: the context is on the token on which the latent was found to fire."""
    of_sae: dict[str, list[FoundLatent]] = {}
    for one in found:
        of_sae.setdefault(one.sae, []).append(one)
    written = labels.of_saes(db, {sae_id: [one.latent for one in some] for sae_id, some in of_sae.items()})
    explained = explanations.explained_saes(db, of_sae) if not numbers_only else ()
    shown: dict[tuple[str, int], Result] = {}
    for sae, build in _open_builds(builds, [saes[sae_id] for sae_id in of_sae]):
        found_here = [one.latent for one in of_sae[sae.id]]
        names = explanations.names(db, sae.id, found_here) if sae.id in explained else {}
        if numbers_only:
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
    return Result(sae, one, facts["density"], label, good, said,
                  snippet(context, build.vocabulary, facts["max_act"]))
