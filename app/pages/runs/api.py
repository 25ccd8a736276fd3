"""The JSON interface: SAEs and runs.  Reading is open; what changes anything needs an administrator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app.db.tables import Run, Sae
from app.jobs import queue
from app.pages.dependencies import AdminDep, CatalogDep, SessionDep, SupervisorDep, WorkspaceDep
from app.pages.runs.run_views import RunView, all_progress, view
from app.pages.runs.spec_check import check_spec
from app.web.templating import render
from sae.runs.folder import RunFolder

router = APIRouter(prefix="/api")


class SaeOut(BaseModel):
    """An SAE of the workspace."""

    model: str = Field(description="The language model's segment of the address")
    sae: str = Field(description="The SAE's name under its model")
    architecture: str
    n_latents: int
    k: int | None
    layer: int
    hook: str
    url: str
    build: str | None = Field(description="Its newest finished feature build; null while there is none")
    metrics: dict[str, Any] = Field(description="Measured on held-out text; see the SAE's page for definitions")


class RunOut(BaseModel):
    """Where a run stands."""

    id: str
    kind: str
    state: str = Field(description="queued, starting, running, succeeded, failed, cancelled or lost")
    title: str
    progress: float = Field(description="Share of the whole that is done, 0 to 1")
    phase: str | None
    phases: list[str]
    done: float = Field(description="Of `total`, in `unit`, within the phase")
    total: float
    unit: str
    rate: float | None = Field(description="Units per second, while it is going")
    eta_s: float | None = Field(description="Seconds left for the whole run, while that can be told")
    message: str
    error: str | None
    sae: str | None
    build: str | None
    created: float
    started: float | None
    finished: float | None
    requested_by: str
    cancelling: bool
    url: str


class RunIn(BaseModel):
    """A run to start: `kind`, and its settings by name; those left out take their defaults."""

    kind: Literal["train", "index", "evaluate"]
    spec: dict[str, Any] = Field(default_factory=dict)


def sae_out(sae: Sae) -> SaeOut:
    return SaeOut(
        model=sae.model, sae=sae.name, architecture=sae.architecture, n_latents=sae.n_latents, k=sae.k,
        layer=sae.layer, hook=sae.hook, url=f"/{sae.id}", build=sae.current_build,
        metrics=sae.config.get("metrics") or {})


@router.get("/saes", summary="Every SAE, newest first", tags=["saes"])
def list_saes(catalog: CatalogDep) -> list[SaeOut]:
    return [sae_out(sae) for sae in catalog.list_saes()]


@router.get("/runs", summary="The latest runs, newest first", tags=["runs"])
def list_runs(
    db: SessionDep, workspace: WorkspaceDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[RunOut]:
    waiting = queue.waiting(db)
    return [_out(view(run, workspace, waiting)) for run in queue.newest(db, limit)]


@router.get("/runs/{run_id}", summary="One run", tags=["runs"])
def read_run(run_id: str, db: SessionDep, workspace: WorkspaceDep) -> RunOut:
    return _out(view(_find(db.get(Run, run_id)), workspace, queue.waiting(db)))


@router.get("/runs/{run_id}/curves", summary="The rows of a run's progress.jsonl", tags=["runs"])
def read_curves(run_id: str, db: SessionDep, workspace: WorkspaceDep) -> list[dict[str, Any]]:
    return all_progress(RunFolder(workspace.run(_find(db.get(Run, run_id)).id)))


@router.post("/runs", status_code=201, summary="Queue a run (administrators)", tags=["runs"])
def create_run(
    body: RunIn, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, catalog: CatalogDep,
    supervisor: SupervisorDep,
) -> RunOut:
    spec = check_spec(body.kind, body.spec, catalog)
    run = queue.enqueue(db, workspace, body.kind, spec.model_dump(), admin.name)
    supervisor.wake()
    return _out(view(run, workspace, queue.waiting(db)))


@router.post("/runs/{run_id}/cancel", summary="Stop a run at its next safe point (administrators)", tags=["runs"])
def cancel_run(
    run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, supervisor: SupervisorDep
) -> RunOut:
    run = _find(db.get(Run, run_id))
    if not queue.cancel(db, workspace, run_id):
        raise HTTPException(409, f"The run has {run.state}; there is nothing to cancel.")
    supervisor.wake()
    return _out(view(db.get_one(Run, run_id, populate_existing=True), workspace))


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> Response:
    """The interface on a page of our own: the usual viewers load their scripts from elsewhere."""
    schema = request.app.openapi()
    operations = [
        {"method": method.upper(), "path": path, **operation}
        for path, methods in schema["paths"].items() for method, operation in methods.items()
        if operation.get("tags")]
    return render(request, "api.html", operations=operations, schemas=schema["components"]["schemas"])


def _find(run: Run | None) -> Run:
    if run is None:
        raise HTTPException(404, "There is no run with this id. It may have been deleted.")
    return run


def _out(run: RunView) -> RunOut:
    return RunOut(**run.as_json())
