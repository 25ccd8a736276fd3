"""Explanations that people write on a latent's page, and the choice among all of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from app.db.tables import Sae, User
from app.library import explanations
from app.pages.dependencies import CatalogDep, SessionDep, SignedInDep
from app.pages.explore.explanation_views import explanations_of
from app.pages.sae_page import find_sae, latent_number
from app.web.templating import is_htmx, render

router = APIRouter(include_in_schema=False)


@router.post("/{model}/{name}/{number}/explanations")
def write_explanation(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, user: SignedInDep,
    text: Annotated[str, Form()] = "",
) -> Response:
    """Store an explanation of the person who is signed in."""
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    explanations.write(db, sae.id, latent, text, user.name)
    db.commit()
    return _answer(request, db, sae, latent, user)


@router.post("/{model}/{name}/{number}/explanations/{explanation}/{action}")
def change_explanation(
    request: Request, model: str, name: str, number: str, explanation: str, action: str, db: SessionDep,
    catalog: CatalogDep, user: SignedInDep,
) -> Response:
    """Choose an explanation as the latent's name or take that back (`choose`), or delete one's own (`delete`)."""
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    if action == "choose":
        done = explanations.choose(db, sae.id, latent, explanation)
    elif action == "delete":
        done = explanations.remove(db, sae.id, latent, explanation, None if user.is_admin else user.name)
    else:
        done = False
    if not done:
        raise HTTPException(404, "There is no such explanation here, or it is not yours.")
    db.commit()
    return _answer(request, db, sae, latent, user)


def _answer(request: Request, db: SessionDep, sae: Sae, latent: int, user: User) -> Response:
    """Return the card for htmx, and the latent's page for a browser without it."""
    if not is_htmx(request):
        return RedirectResponse(f"/{sae.id}/{latent}#explanations", 303)
    return render(request, "explore/_explanations.html", sae=sae, number=latent,
                  explained=explanations_of(db, sae, latent, user.name))
