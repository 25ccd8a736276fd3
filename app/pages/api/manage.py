"""Notes, names and deletion of SAEs for programs of administrators."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from app.access.audit import say
from app.jobs import sae_changes
from app.library.sae_notes import write_notes
from app.pages.api.security import BEARER
from app.pages.dependencies import AdminDep, BuildsDep, CatalogDep, SessionDep, WorkspaceDep
from app.pages.runs.api import SaeOut, sae_out
from app.pages.sae_page import find_sae
from sae.errors import UserError

router = APIRouter(prefix="/api/saes", tags=["saes"], dependencies=[BEARER])


class SaeChange(BaseModel):
    """A change of an SAE; what is left out stays unchanged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"note": "dead latents after 1 M tokens", "hidden": True}, {"name": "best"}]})

    name: str | None = Field(default=None, description="The new name under its model; its addresses change with it")
    note: str | None = None
    hidden: bool | None = Field(default=None, description="Whether lists leave it out")


@router.patch("/{model}/{name}", summary="Rename, annotate or hide an SAE (administrators)")
def change_sae(
    request: Request, model: str, name: str, body: SaeChange, admin: AdminDep, db: SessionDep, catalog: CatalogDep,
    workspace: WorkspaceDep, builds: BuildsDep,
) -> SaeOut:
    """Change an SAE's name, note or visibility."""
    sae = find_sae(catalog, model, name)
    sae_id = sae.id
    if body.note is not None or body.hidden is not None:
        write_notes(workspace.sae(sae_id), sae.note if body.note is None else body.note,
                    hidden=sae.hidden if body.hidden is None else body.hidden)
    if body.name is not None:
        sae_id = sae_changes.rename_sae(db, workspace, sae_id, body.name.strip())
        builds.forget(sae.id)
    catalog.sync()
    say(request, ", ".join(f"{key}: {value}" for key, value in body.model_dump(exclude_none=True).items())[:500])
    return sae_out(find_sae(catalog, *sae_id.split("/")))


@router.delete("/{model}/{name}", status_code=204, summary="Delete an SAE with all that belongs to it (administrators)")
def delete_sae(
    model: str, name: str, admin: AdminDep, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep,
    builds: BuildsDep,
) -> None:
    """Delete an SAE with its builds, labels and measured effects.  A run that works with it gives 409."""
    sae = find_sae(catalog, model, name)
    try:
        sae_changes.delete_sae(db, workspace, sae.id)
    except UserError as error:
        raise HTTPException(409, f"{error}.") from None
    catalog.sync()
    builds.forget(sae.id)
