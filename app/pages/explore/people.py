"""What people do on a latent's page besides labels: star it and comment on it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Sae
from app.library import comments, lists
from app.pages.dependencies import CatalogDep, EditorDep, SessionDep, SignedInDep, UserDep
from app.pages.sae_page import find_sae, latent_number
from app.pages.stars import star
from app.web.parameters import PathNumber
from app.web.templating import is_htmx, render
from sae.errors import UserError

router = APIRouter(prefix="/{model}/{name}/{number}", include_in_schema=False)


@router.post("/star")
def put_star(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, user: UserDep,
    on: Annotated[str, Form(max_length=5)] = "",
) -> Response:
    """Star the latent (`on=1`) or remove the star: the user's, or without one this browser's."""
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    wanted = on == "1"
    if is_htmx(request):
        response: Response = render(request, "explore/_star.html", sae=sae, number=latent, starred=wanted)
    else:
        response = RedirectResponse(f"/{sae.id}/{latent}", 303)
    star(request, response, db, user, sae.id, latent, on=wanted)
    return response


@router.post("/comments")
def write_comment(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, user: EditorDep,
    text: Annotated[str, Form()] = "",
) -> Response:
    """Store a comment."""
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    try:
        comments.write(db, sae.id, latent, text, user.name)
    except UserError as error:
        if not is_htmx(request):
            raise
        return _section(request, db, sae, latent, str(error).removeprefix("text: "), text)
    return _section(request, db, sae, latent)


@router.post("/comments/{comment}/delete")
def delete_comment(
    request: Request, model: str, name: str, number: str, comment: PathNumber, db: SessionDep, catalog: CatalogDep,
    user: SignedInDep,
) -> Response:
    """Delete a comment: one's own, or as an administrator anyone's."""
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    found = comments.find(db, sae.id, latent, comment)
    if found is None:
        raise HTTPException(404, "There is no such comment. It may have been deleted.")
    if not (user.is_admin or found.author == user.name):
        raise HTTPException(403, f"Only {found.author} and administrators can delete this comment.")
    comments.remove(db, found)
    return _section(request, db, sae, latent)


def _section(request: Request, db: Session, sae: Sae, latent: int, error: str = "", draft: str = "") -> Response:
    """Return the comments for htmx, or lead back to the page."""
    if not is_htmx(request):
        return RedirectResponse(f"/{sae.id}/{latent}#people", 303)
    return render(
        request, "explore/_people.html", 422 if error else 200, sae=sae, number=latent, error=error, draft=draft,
        comments=comments.of_latent(db, sae.id, latent), in_lists=lists.with_latent(db, sae.id, latent))
