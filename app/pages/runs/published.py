"""Admin ▸ Published results: result files of SAEBench, read in and removed again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from app.access.audit import say
from app.pages.dependencies import WorkspaceDep, admin_user
from app.web.templating import render
from sae.errors import UserError
from sae.evaluation import saebench
from sae.evaluation.published import PublishedResult, read_all_published, remove_published, write_published
from sae.workspace.paths import Workspace

router = APIRouter(prefix="/admin/published", dependencies=[Depends(admin_user)], include_in_schema=False)

MAX_FILES, MAX_FILE_BYTES = 20, 64_000_000  # a core file of 131,072 latents has 50 MB
FORM_BYTES = 2 * MAX_FILE_BYTES + 100_000  # the whole form


@router.get("")
def show(request: Request, workspace: WorkspaceDep) -> Response:
    """Show the published results that are here, and the form for files of more."""
    return _page(request, workspace)


@router.post("")
def add(request: Request, workspace: WorkspaceDep, files: Annotated[list[UploadFile], File()]) -> Response:
    """Add the results of files of SAEBench, all or none."""
    try:
        results = _read(files)
    except UserError as error:
        return _page(request, workspace, str(error).removeprefix("file: "))
    for result in results:
        write_published(workspace, result)
    say(request, ", ".join(sorted({f"{one.model}: {one.name}" for one in results}))[:500])
    return RedirectResponse(f"/admin/published?added={len(results)}", 303)


@router.post("/remove")
def remove(
    request: Request, workspace: WorkspaceDep, model: Annotated[str, Form(max_length=400)] = "",
    sae: Annotated[str, Form(max_length=400)] = "",
) -> Response:
    """Remove the published results of one SAE."""
    if not remove_published(workspace, model, sae):
        return _page(request, workspace, f"There is no published result of {sae[:80]!r}, or somebody removed it.")
    say(request, f"{model}: {sae}")
    return RedirectResponse("/admin/published?removed=1", 303)


def _read(files: list[UploadFile]) -> list[PublishedResult]:
    """Return the results of all files.  Raises UserError (field `file`) that names the file at fault."""
    chosen = [file for file in files if file.filename]
    if not chosen:
        raise UserError("file: choose at least one file", "file")
    if len(chosen) > MAX_FILES:
        raise UserError(f"file: {len(chosen)} files were chosen; at most {MAX_FILES} are read at once", "file")
    found = []
    for file in chosen:
        name = str(file.filename)[:120]
        content = file.file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UserError(f"file: {name} is larger than {MAX_FILE_BYTES // 10**6} MB", "file")
        found += saebench.read_bytes(content, name)
    return found


def _page(request: Request, workspace: Workspace, fault: str = "") -> Response:
    saes: dict[tuple[str, str], dict[str, Any]] = {}
    for one in read_all_published(workspace):
        row = saes.setdefault((one.model, one.name), {"model": one.model, "name": one.name, "source": one.source,
                                                      "kinds": [], "numbers": 0})
        row["kinds"].append(one.kind)
        row["numbers"] += len(one.values)
    return render(request, "runs/published.html", 422 if fault else 200, section="admin", saes=list(saes.values()),
                  fault=fault, added=_whole(request.query_params.get("added", "")),
                  removed="removed" in request.query_params, max_files=MAX_FILES,
                  max_megabytes=MAX_FILE_BYTES // 10**6)


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0
