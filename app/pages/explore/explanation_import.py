"""Files of explanations into an SAE: uploaded (one file, a zip, or several), or at a path on the server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.library.uploads import Uploads
from app.pages.dependencies import AdminDep
from app.pages.sae_page import find_sae
from sae.errors import UserError
from sae.explain.exchange import formats
from sae.explain.records import Explanation, Record

router = APIRouter(include_in_schema=False)

MAX_FILES = 5000


@router.post("/{model}/{name}/explanations")
async def read_explanations(request: Request, model: str, name: str, admin: AdminDep) -> Response:
    """Add the explanations of Neuronpedia's, delphi's, SAEBench's or saescope's files to the SAE's own.

    The fields are `file` (one or several), `path` (on this server) and `source` (one of several in the files).
    """
    async with request.form(max_files=MAX_FILES, max_fields=10) as sent:
        files = [(item.filename, item.file) for item in sent.getlist("file")
                 if isinstance(item, UploadFile) and item.filename]
        fields = {key: value.strip() for key, value in sent.items() if isinstance(value, str)}
        return await run_in_threadpool(_store, request, f"{model}/{name}", files, fields)


def _store(request: Request, sae_id: str, files: list[tuple[str, BinaryIO]], fields: dict[str, str]) -> Response:
    state = request.app.state
    workspace, source = state.settings.workspace, fields.get("source", "")
    sae = find_sae(state.catalog, *sae_id.split("/"))
    if files:
        records = _of_upload(Uploads(workspace.root, state.settings.max_upload_bytes), files, sae.n_latents, source)
    elif path := fields.get("path", ""):
        records = formats.read(Path(path).expanduser(), sae.n_latents, source)
    else:
        raise UserError("file: choose a file of explanations, or give a path on this server", "file")
    added = formats.add(workspace.sae(sae.id), records)
    state.catalog.sync_if_changed()
    kinds = {one.kind for one in records if isinstance(one, Explanation)}  # the table shows what has come
    return RedirectResponse(
        f"/{sae.id}/latents?explained={kinds.pop() if len(kinds) == 1 else 'any'}&added={added}", 303)


def _of_upload(uploads: Uploads, files: list[tuple[str, BinaryIO]], n_latents: int, source: str) -> list[Record]:
    """Return the records of uploaded files, which are deleted again."""
    token = uploads.stage(files)
    staged = uploads.find(token)
    assert staged is not None
    try:
        return formats.read(_inner(staged), n_latents, source)
    except UserError as error:  # people know their files, not the folder in which they are kept
        said = str(error).replace(str(staged), "the upload").replace(token, "the upload")
        raise UserError(said, error.field) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _inner(folder: Path) -> Path:
    """Return the only file in a folder, or the first folder that has more than one entry, as a zip has folders."""
    while len(entries := [path for path in folder.iterdir() if not path.name.startswith(".")]) == 1:
        if entries[0].is_file():
            return entries[0]
        if entries[0].name == "explanations":
            return folder
        folder = entries[0]
    return folder
