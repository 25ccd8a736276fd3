"""The search box of every page: one ranked list of latents, of one SAE or of all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Sae, User
from app.library import labels, stars
from app.library.builds import Builds
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, UserDep
from app.pages.find.latents import Active, Result, Scope, find_latents, find_scope, with_number
from app.pages.find.phrase import Read, reading
from app.render.token_text import token_label
from app.web.parameters import whole_number
from app.web.templating import render
from sae.store.build import Build

router = APIRouter(include_in_schema=False)

LISTED = 50
TOKENS_LISTED = 12


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
    return found_json(db, builds, find_scope(catalog, sae), q.strip()[:200])


def found_json(db: Session, builds: Builds, scope: Scope, text: str, read: Read | None = None) -> JSONResponse:
    """Return the JSON of a search."""
    results, tokens = _search(db, builds, scope.chosen, text, read.active if read else {}, bare=True)
    by_sae: dict[str, list[dict[str, object]]] = {row.id: [] for row in scope.chosen if text}
    for link in tokens:
        by_sae[link.sae.id].append({"token": link.token, "latents": link.latents, "n": link.n})
    labelled = labels.search(db, text, [row.id for row in scope.chosen], limit=100) if text else []
    return JSONResponse({
        "q": text, "tokens": by_sae,
        "numbers": [f"/{row.id}/{whole_number(text)}" for row in with_number(scope.every, text)],
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
    if scope.current is not None and with_number([scope.current], text):
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
        "numbers": with_number(scope.every, text), "n_saes": len(scope.every),
        "unread": [row for row in scope.every if not row.current_build],
        "on_text": f"/search/text?{urlencode(on_text)}" if scope.reader else "",
        "reading": reading(scope, text, f"/search/found?{urlencode({'q': text, **current})}", read)}


def _search(
    db: Session, builds: Builds, saes: list[Sae], text: str, active: Active, bare: bool = False,
) -> tuple[list[Result], list[TokenLink]]:
    """Return the latents of these SAEs that fit the text, best first, and the tokens that contain it."""
    tokens: list[TokenLink] = []

    def list_tokens(sae: Sae, build: Build) -> None:
        tokens.extend(
            TokenLink(sae, token_label(t), f"/{sae.id}/latents?{urlencode({'token': f'#{t.token}'})}", t.n)
            for t in build.find_tokens(text, TOKENS_LISTED) if t.n != 0)

    return find_latents(db, builds, saes, text, LISTED, active, bare=bare, visit=list_tokens), tokens
