"""Export of all labels of an SAE as a file, and import of such a file."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from app.library import label_files, labels, stars
from app.pages.dependencies import CatalogDep, EditorDep, SessionDep, UserDep
from app.pages.sae_page import find_sae
from app.pages.stars import starred

router = APIRouter(include_in_schema=False)

@router.get("/{model}/{name}/labels.json")
def labels_json(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, user: UserDep
) -> Response:
    """Return all labels, notes and tags of this SAE, and your stars, as JSON."""
    sae = find_sae(catalog, model, name)
    text = label_files.as_json(sae.id, labels.everything(db, sae.id), starred(request, db, user, sae.id))
    return _file(text, "application/json", f"{sae.name}-labels.json")


@router.get("/{model}/{name}/labels.csv")
def labels_csv(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, user: UserDep
) -> Response:
    """Return all labels, notes and tags of this SAE, and your stars, as CSV."""
    sae = find_sae(catalog, model, name)
    text = label_files.as_csv(labels.everything(db, sae.id), starred(request, db, user, sae.id))
    return _file(text, "text/csv", f"{sae.name}-labels.csv")


@router.post("/{model}/{name}/labels")
def read_labels(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, user: EditorDep,
    file: Annotated[UploadFile, File()],
) -> Response:
    """Store the labels of a file, all or none.  The table then says how many latents had none, or another one."""
    sae = find_sae(catalog, model, name)
    content = file.file.read(label_files.MAX_BYTES + 1)
    done = label_files.store(db, sae, label_files.read(content, sae), user.name, partial(stars.put, db, user, sae.id))
    return RedirectResponse(
        f"/{sae.id}/latents?labelled=1&imported={done.new}-{done.replaced}-{done.unchanged}", 303)


def _file(text: str, kind: str, name: str) -> Response:
    headers: dict[str, Any] = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(text.encode(), media_type=f"{kind}; charset=utf-8", headers=headers)
