"""Admin ▸ SAEs: an SAE's note and visibility, its name, and its deletion with all that belongs to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Sae
from app.jobs import sae_changes
from app.library.sae_notes import MAX_NOTE, write_notes
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, WorkspaceDep, admin_user
from app.pages.sae_page import find_sae
from app.web.templating import render
from sae.errors import UserError
from sae.workspace.paths import Workspace

router = APIRouter(prefix="/admin/saes", dependencies=[Depends(admin_user)], include_in_schema=False)


@router.get("/{model}/{name}")
def manage(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep
) -> Response:
    """Show the SAE's note, name and belongings, each with the form that changes it."""
    return _page(request, find_sae(catalog, model, name), db, workspace)


@router.post("/{model}/{name}/note")
def save_note(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep,
    note: Annotated[str, Form()] = "", hidden: Annotated[str, Form()] = "",
) -> Response:
    """Save the note, and whether lists leave the SAE out."""
    sae = find_sae(catalog, model, name)
    try:
        write_notes(workspace.sae(sae.id), note, hidden=bool(hidden))
    except UserError as error:
        return _page(request, sae, db, workspace, error, note=note)
    catalog.sync()
    return RedirectResponse(f"/admin/saes/{sae.id}?saved=1", 303)


@router.post("/{model}/{name}/rename")
def rename(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep,
    builds: BuildsDep, to: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Rename the SAE.  Its addresses change with it."""
    sae = find_sae(catalog, model, name)
    try:
        new_id = sae_changes.rename_sae(db, workspace, sae.id, to.strip())
    except UserError as error:
        return _page(request, sae, db, workspace, error, to=to)
    catalog.sync()
    builds.forget(sae.id)
    return RedirectResponse(f"/admin/saes/{new_id}?saved=1", 303)


@router.get("/{model}/{name}/delete")
def ask_delete(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep
) -> Response:
    """Ask for confirmation and list what goes, on a page, which works without JavaScript."""
    return _ask(request, find_sae(catalog, model, name), db, workspace)


@router.post("/{model}/{name}/delete")
def delete(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep,
    builds: BuildsDep, sure: Annotated[str, Form()] = "",
) -> Response:
    """Delete the SAE with all that belongs to it."""
    sae = find_sae(catalog, model, name)
    if sure != "yes":
        return RedirectResponse(f"/admin/saes/{sae.id}/delete", 303)
    try:
        sae_changes.delete_sae(db, workspace, sae.id)
    except UserError as error:
        return _ask(request, sae, db, workspace, error)
    catalog.sync()
    builds.forget(sae.id)
    return RedirectResponse("/admin#saes", 303)


def _ask(request: Request, sae: Sae, db: Session, workspace: Workspace, error: UserError | None = None) -> Response:
    return render(
        request, "runs/delete_sae.html", 409 if error else 200, section="admin", sae=sae,
        owned=sae_changes.belongings(db, workspace, sae.id))


def _page(
    request: Request, sae: Sae, db: Session, workspace: Workspace, error: UserError | None = None,
    note: str | None = None, to: str | None = None,
) -> Response:
    errors = {error.field or "": str(error).removeprefix(f"{error.field}: ")} if error else {}
    return render(
        request, "runs/manage_sae.html", 422 if error else 200, section="admin", sae=sae, errors=errors,
        note=sae.note if note is None else note, to=sae.name if to is None else to, max_note=MAX_NOTE,
        owned=sae_changes.belongings(db, workspace, sae.id), saved=bool(request.query_params.get("saved")))
