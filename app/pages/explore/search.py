"""The search box of every page: one ranked list of latents, of one SAE or of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Label, Sae
from app.library import explanations, labels
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.latent_search import FoundLatent, search_latents
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep
from app.pages.explore.latent_views import snippet
from app.render.latent_words import RuleWords, rule_words
from app.render.token_text import Row, token_label
from app.web.parameters import whole_number
from app.web.templating import render
from sae.errors import UserError
from sae.store.build import Build

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


@dataclass(frozen=True)
class TokenLink:
    """A token that contains the text, with the address of the latents that fire on it."""

    sae: Sae
    token: str
    latents: str
    n: int | None


@router.get("/search.json")
def search_json(
    db: SessionDep, catalog: CatalogDep, builds: BuildsDep, q: str = "", sae: str = "",
) -> JSONResponse:
    """Return the latents that fit the text or have that number, labels and notes, and tokens that contain it."""
    text, every = q.strip()[:200], _searchable(catalog, sae)
    chosen = [row for row in every if row.id == sae] or every
    results, tokens = _search(db, builds, chosen, text)
    by_sae: dict[str, list[dict[str, object]]] = {row.id: [] for row in chosen if text}
    for link in tokens:
        by_sae[link.sae.id].append({"token": link.token, "latents": link.latents, "n": link.n})
    known = {row.id for row in every}
    return JSONResponse({
        "q": text, "tokens": by_sae,
        "numbers": [f"/{row.id}/{whole_number(text)}" for row in _with_number(every, text)],
        "latents": [{"sae": result.sae.id, "latent": result.found.latent, "score": result.found.score,
                     "label": result.label.text if result.label else "", "density": result.density,
                     "reasons": [asdict(reason) for reason in result.found.best]} for result in results],
        "labels": [{"sae": row.sae_id, "latent": row.latent, "text": row.text, "note": row.note, "tags": row.tags}
                   for row in (labels.search(db, text, limit=100) if text else []) if row.sae_id in known]})


@router.get("/search")
def search(
    request: Request, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, q: str = "", sae: str = "",
) -> Response:
    """Open the latent of a number, or list latents by label, rule, token and logit, of one SAE or of all."""
    text, every = q.strip()[:200], _searchable(catalog, sae)
    current = next((row for row in every if row.id == sae), every[0] if len(every) == 1 else None)
    if current is not None and _with_number([current], text):
        return RedirectResponse(f"/{current.id}/{whole_number(text)}", 303)
    results, tokens = _search(db, builds, [current] if current else every, text)
    reader = current or next((row for row in every if row.current_build and not row.weightless), None)
    reads = reader is not None and not reader.weightless and reader.current_build is not None
    return render(
        request, "explore/search.html", current_sae=current, search_text=text, q=text, results=results, tokens=tokens,
        numbers=_with_number(every, text), n_saes=len(every), unread=[row for row in every if not row.current_build],
        inspect=f"/inspect?{urlencode({'sae': reader.id, 'text': text})}" if reads and reader else "",
        json_url=f"/search.json?{request.url.query}")


def _searchable(catalog: Catalog, sae_id: str) -> list[Sae]:
    """Return the SAEs that are not hidden, and the one that is asked for."""
    return [row for row in catalog.list_saes() if not row.hidden or row.id == sae_id]


def _with_number(saes: list[Sae], text: str) -> list[Sae]:
    """Return the SAEs that have a latent of this number."""
    return [row for row in saes if whole_number(text, row.n_latents) is not None]


def _search(db: Session, builds: Builds, saes: list[Sae], text: str) -> tuple[list[Result], list[TokenLink]]:
    """Return the latents of these SAEs that fit the text, best first, and the tokens that contain it."""
    results: list[Result] = []
    tokens: list[TokenLink] = []
    for sae, build in _open_builds(builds, saes) if text else ():
        results += _results(build, sae, search_latents(db, build, sae.id, text), db)
        tokens += [TokenLink(sae, token_label(t), f"/{sae.id}/latents?{urlencode({'token': f'#{t.token}'})}", t.n)
                   for t in build.find_tokens(text, TOKENS_LISTED) if t.n != 0]
    return sorted(results, key=lambda result: -result.found.score)[:LISTED], tokens


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


def _results(build: Build, sae: Sae, found: list[FoundLatent], db: Session) -> list[Result]:
    """Return what the page shows of the latents: its context is on the token on which it was found to fire."""
    rows = {row.latent: row for row in build.some(one.latent for one in found)}
    written = labels.of_latents(db, sae.id, list(rows))
    names = explanations.names(db, sae.id, list(rows))
    info, out = build.vocabulary, []
    for one in found:
        row = rows.get(one.latent)
        if row is None:  # a label of a latent that this build does not have
            continue
        rule = rule_words(row.rule, info)
        context = build.snippets([one.latent], one.token).get(one.latent)
        out.append(Result(sae, one, row.density, written.get(one.latent), rule if rule and rule.good else None,
                          names[one.latent].text if one.latent in names else "", snippet(context, info, row.max_act)))
    return out
