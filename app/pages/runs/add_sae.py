"""Import an SAE: a form with an upload, a server path or a hub name, which asks for what the file does not say.

A source on this machine is inspected before there is a run, in a separate process.  The run itself fetches a hub name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.db.tables import User
from app.jobs import queue
from app.jobs.places import chosen_place
from app.library.uploads import Uploads
from app.pages.dependencies import AdminDep, WorkspaceDep, admin_user
from app.pages.runs import spec_form
from app.pages.runs.spec_check import check_spec
from app.web.templating import render
from sae.errors import UserError
from sae.formats.untrusted_tensors import plain_files
from sae.runs.folder import RunFolder
from sae.runs.import_sae import UPLOAD
from sae.runs.inspect_source import inspect
from sae.specs.imports import ImportSpec
from sae.workspace.paths import Workspace, new_id

router = APIRouter(prefix="/admin/import", dependencies=[Depends(admin_user)], include_in_schema=False)


@router.get("")
def form(request: Request, workspace: WorkspaceDep, run: str = "", source: str = "") -> Response:
    """Show the form; `run`: with the settings of an earlier import, whose files it uses again."""
    typed = spec_form.defaults("import")
    if source:
        typed["source"] = source
    if run:
        try:
            kind, values = RunFolder(workspace.run(run)).spec()
            typed |= values if kind == "import" else {}
        except (UserError, OSError):
            pass  # it has been deleted, so the form stays empty
    return _page(request, typed, {})


@router.post("")
async def read_and_submit(request: Request, admin: AdminDep) -> Response:
    """Read the files and the settings, and handle them in a thread."""
    async with request.form(max_files=200, max_fields=100) as sent:
        files = [(item.filename, item.file) for item in sent.getlist("files")
                 if isinstance(item, UploadFile) and item.filename]
        fields = {name: value for name, value in sent.items() if isinstance(value, str)}
        return await run_in_threadpool(_submit, request, fields, files, admin)


def _submit(request: Request, sent: dict[str, str], files: list[Any], admin: User) -> Response:
    state = request.app.state
    workspace, uploads = state.settings.workspace, _uploads(request)
    typed, token = spec_form.read_form("import", sent), sent.get("upload", "")
    if files:
        try:
            uploads.drop(token)
            token = ""
            token = uploads.stage(files)
        except UserError as error:
            return _page(request, typed, {"source": _without_field(error)})
    staged = uploads.find(token)
    values = spec_form.spec_values("import", typed | ({"source": str(staged)} if staged else {}))
    found: dict[str, Any] = {}
    errors = spec_form.find_errors("import", values)
    if "source" in errors and not values.get("source"):
        errors["source"] = "Choose files, or give a path on this server or a Hugging Face name."
    if not errors:
        try:
            spec = check_spec("import", values, state.catalog)
            found, errors = inspect_import(spec, workspace)  # type: ignore[arg-type]
        except UserError as error:
            errors = {error.field or "": _without_field(error)}
    if staged:  # people know their files, not the folder in which they are kept
        errors = {name: _with_file_names(message, staged) for name, message in errors.items()}
    if "source" in errors and staged:  # the file itself is at fault, so it is not kept
        uploads.drop(token)
        staged = None
    if errors:
        return _page(request, typed, errors, found.get("facts"), found.get("asks"), token if staged else "",
                     sent.get("key", ""))
    return _start(request, spec, token if staged else "", sent.get("key", ""), admin)  # type: ignore[arg-type]


def _start(request: Request, spec: ImportSpec, token: str, key: str, admin: User) -> Response:
    state = request.app.state
    workspace: Workspace = state.settings.workspace
    with state.sessions() as db:
        run = queue.started_by(db, key[:80])
        if run is None:
            run_id = new_id("import")
            if token:
                _uploads(request).give(token, workspace.run(run_id) / UPLOAD)
                spec = spec.model_copy(update={"source": str(workspace.run(run_id) / UPLOAD)})
            run = queue.enqueue(db, workspace, "import", spec.model_dump(), admin.name, run_id, key[:80],
                                place=chosen_place(state.settings, "import"))
        run_id = run.id
    state.supervisor.wake()
    return RedirectResponse(f"/runs/{run_id}", 303)


def _uploads(request: Request) -> Uploads:
    settings = request.app.state.settings
    return Uploads(settings.home, settings.max_upload_bytes)


def inspect_import(spec: ImportSpec, workspace: Workspace) -> tuple[dict[str, Any], dict[str, str]]:
    """Inspect the source; return the answer of `inspect_source.inspect`, and the faults in it by setting."""
    found = inspect(spec, workspace)
    if "asks" in found:
        return found, {name: f"The file does not say; give {why}." for name, why in found["asks"].items()}
    if "error" in found:
        field = found.get("field") or ""
        return found, {field: str(found["error"]).removeprefix(f"{field}: ")}
    return found, {}


def _with_file_names(message: str, staged: Path) -> str:
    files = [path.relative_to(staged).as_posix() for path in plain_files(staged)]
    shown = files[0] if len(files) == 1 else "The upload"
    for name in (f"{staged}/", str(staged), f"{staged.name}/"):
        message = message.replace(name, "" if name.endswith("/") else shown)
    return message.replace(f"{staged.name}:", shown).replace(staged.name, shown)


def _without_field(error: UserError) -> str:
    return str(error).removeprefix(f"{error.field}: ")


def _page(
    request: Request, typed: dict[str, Any], errors: dict[str, str], facts: dict[str, Any] | None = None,
    asks: dict[str, str] | None = None, token: str = "", key: str = "",
) -> Response:
    staged = _uploads(request).find(token) if token else None
    names = [path.relative_to(staged).as_posix() for path in plain_files(staged)] if staged else []
    return render(
        request, "runs/add_sae.html", 422 if errors else 200, section="admin",
        groups=spec_form.groups("import", typed, errors), errors=errors, facts=facts or {}, asks=asks or {},
        upload=token, names=names, key=key or new_id("form"), limit=request.app.state.settings.max_upload_bytes,
        kept=Path(str(typed.get("source", ""))).name == UPLOAD)
