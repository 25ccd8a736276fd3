"""All labels of an SAE as a file, and a file of labels back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from app.library import label_files, labels
from app.pages.dependencies import CatalogDep, SessionDep, SignedInDep
from app.pages.sae_page import find_sae
from sae.errors import UserError

router = APIRouter(include_in_schema=False)

MAX_BYTES = 50_000_000


@router.get("/{model}/{name}/labels.json")
def labels_json(model: str, name: str, db: SessionDep, catalog: CatalogDep) -> Response:
    """Everything written on the latents of this SAE."""
    sae = find_sae(catalog, model, name)
    text = label_files.as_json(sae.id, labels.everything(db, sae.id))
    return _file(text, "application/json", f"{sae.name}-labels.json")


@router.get("/{model}/{name}/labels.csv")
def labels_csv(model: str, name: str, db: SessionDep, catalog: CatalogDep) -> Response:
    """The same as a table."""
    sae = find_sae(catalog, model, name)
    return _file(label_files.as_csv(labels.everything(db, sae.id)), "text/csv", f"{sae.name}-labels.csv")


@router.post("/{model}/{name}/labels")
def read_labels(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, user: SignedInDep,
    file: Annotated[UploadFile, File()],
) -> Response:
    """Store the labels of a file, all or none; what it does not say stays as it was."""
    sae = find_sae(catalog, model, name)
    content = file.file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"file: more than {MAX_BYTES // 1_000_000} MB", "file")
    label_files.store(db, sae, label_files.read(content, sae), user.name)
    return RedirectResponse(f"/{sae.id}/latents?labelled=1", 303)


def _file(text: str, kind: str, name: str) -> Response:
    headers: dict[str, Any] = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(text.encode(), media_type=f"{kind}; charset=utf-8", headers=headers)
