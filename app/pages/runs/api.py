"""The JSON interface of SAEs and runs.  Anyone may read; changes need an administrator."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app.db.tables import Run, Sae
from app.jobs import queue
from app.jobs.places import chosen_place
from app.pages.dependencies import AdminDep, CatalogDep, SessionDep, SettingsDep, SupervisorDep, WorkspaceDep
from app.pages.runs import spec_form
from app.pages.runs.add_sae import inspect_import
from app.pages.runs.run_views import RunView, all_progress, view
from app.pages.runs.spec_check import check_spec
from app.web.templating import render
from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.specs.registry import ImportSpec

router = APIRouter(prefix="/api")


# A small body for each kind of run, for the documentation.
EXAMPLES: dict[str, dict[str, Any]] = {
    "train": {"kind": "train", "spec": {"model": "demo", "layer": 2, "n_latents": 4096, "k": 32, "tokens": 2_000_000}},
    "sweep": {"kind": "sweep", "spec": {"architecture": ["batch_topk", "topk"], "n_latents": [2048], "k": [16, 32]}},
    "index": {"kind": "index", "spec": {"sae": "demo/2-res-batchtopk-4k", "index_tokens": 400_000}},
    "evaluate": {"kind": "evaluate", "spec": {"sae": "demo/2-res-batchtopk-4k"}},
    "import": {"kind": "import", "spec": {"source": "owner/repo/folder", "name": "theirs"}},
    "compare": {"kind": "compare", "spec": {"a": "demo/2-res-batchtopk-4k", "b": "demo/2-res-topk-4k"}},
    "explain": {"kind": "explain", "spec": {"sae": "demo/2-res-batchtopk-4k", "latents": "densest:100"}},
    "activations": {"kind": "activations", "spec": {"name": "code-2m", "layers": [0, 1, 2, 3], "tokens": 2_000_000}},
}

# The groups of operations on the page, by their tag.
GROUPS = {
    "saes": "Models and SAEs", "latents": "Latents and search", "labels": "Labels, comments and stars",
    "explanations": "Explanations", "lists": "Lists", "inspecting": "Your own texts",
    "steering": "Steering and effects", "runs": "Runs", "people": "Users and the log", "health": "Health",
}


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
    build: str | None = Field(description="Its newest finished build; null while there is none")
    metrics: dict[str, Any] = Field(description="Measured on held-out text; see the SAE's page for definitions")
    note: str = Field(description="The administrators' note on it")
    hidden: bool = Field(description="Whether the home page, the SAE menu and the search leave it out")


class RunOut(BaseModel):
    """The state of a run."""

    id: str
    kind: str
    state: str = Field(description="queued, starting, running, succeeded, failed, cancelled or lost")
    title: str
    progress: float = Field(description="Finished share of the whole run, 0 to 1")
    phase: str | None
    phases: list[str]
    done: float = Field(description="Finished part of `total`, in `unit`, within the phase")
    total: float
    unit: str
    rate: float | None = Field(description="Units per second, while it is running")
    eta_s: float | None = Field(description="Seconds left for the whole run; null while unknown")
    message: str
    error: str | None
    sae: str | None
    build: str | None
    created: float
    started: float | None
    finished: float | None
    requested_by: str
    cancelling: bool
    launcher: str = Field(description="local, ray or slurm; elsewhere: a command line on another host")
    waiting_for: str | None = Field(description="What keeps a run that was submitted from running")
    parent: str | None = Field(description="The run that this one is a part of")
    url: str


class PlaceIn(BaseModel):
    """A place where a run is executed, and what it asks of a cluster on each node."""

    launcher: Literal["", "local", "ray", "slurm"] = Field("", description="Empty: as the server's settings say")
    cpus: int = Field(0, ge=0, le=1024, description="0: as the server's settings say")
    gpus: int = Field(0, ge=0, le=16)
    nodes: int = Field(1, ge=1, le=1024, description="Nodes that train together")


class RunIn(BaseModel):
    """A run to start."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLES["train"]]}}

    kind: Literal["train", "sweep", "index", "evaluate", "import", "compare", "explain", "activations"] = Field(
        description="train: one SAE; sweep: a grid of SAEs; index: the index of an SAE; evaluate: its measures "
        "on held-out text; import: an SAE of another program; compare: two SAEs latent by latent; "
        "explain: latents in words, with scores; activations: kept on disk for several trainings")
    spec: dict[str, Any] = Field(
        default_factory=dict, description="The settings by name, as listed for each kind; those left out have their "
        "defaults")
    place: PlaceIn = Field(
        default=PlaceIn.model_validate({}), description="Where it is executed; left out: the server's default")


def sae_out(sae: Sae) -> SaeOut:
    return SaeOut(
        model=sae.model, sae=sae.name, architecture=sae.architecture, n_latents=sae.n_latents, k=sae.k,
        layer=sae.layer, hook=sae.hook, url=f"/{sae.id}", build=sae.current_build,
        metrics=sae.config.get("metrics") or {}, note=sae.note, hidden=sae.hidden)


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


@router.post("/runs", status_code=201, summary="Queue a run of any kind (administrators)", tags=["runs"])
def create_run(
    body: RunIn, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, catalog: CatalogDep,
    supervisor: SupervisorDep, settings: SettingsDep,
) -> RunOut:
    """Check the settings as the forms do, and queue the run.  The source of an import is a path or a hub name."""
    spec = check_spec(body.kind, body.spec, catalog)
    if isinstance(spec, ImportSpec):
        for field, message in inspect_import(spec, workspace)[1].items():
            raise UserError(f"{field}: {message}", field)
    place = chosen_place(settings, body.kind, **body.place.model_dump())
    run = queue.enqueue(db, workspace, body.kind, spec.model_dump(mode="json"), admin.name, place=place)
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


@router.post("/runs/{run_id}/resume", summary="Continue a run from its last checkpoint (administrators)", tags=["runs"])
def resume_run(
    run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, supervisor: SupervisorDep
) -> RunOut:
    """Continue a run that was cancelled, failed or was lost."""
    run = view(_find(db.get(Run, run_id)), workspace)
    if not queue.resume(db, workspace, run_id, admin.name):
        raise HTTPException(409, "The run is still stopping; resume it when it has." if run.word == "stopping" else
                            f"The run is {run.state}; there is nothing to resume.")
    supervisor.wake()
    return _out(view(db.get_one(Run, run_id, populate_existing=True), workspace, queue.waiting(db)))


@router.delete("/runs/{run_id}", status_code=204, summary="Delete a run that has ended (administrators)", tags=["runs"])
def delete_run(run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep) -> None:
    """Delete a run with its folder.  An SAE that it finished stays."""
    run = _find(db.get(Run, run_id))
    if not queue.delete(db, workspace, run_id):
        raise HTTPException(409, f"The run is {run.state}; cancel it first, then delete it.")


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> Response:
    """Show the interface on a page of our own, because the usual viewers load their scripts from other sites."""
    schema = request.app.openapi()
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in GROUPS}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if operation.get("tags"):
                groups[operation["tags"][-1]].append({"method": method.upper(), "path": path, **operation})
    kinds = {kind: (example, spec_form.settings(kind)) for kind, example in EXAMPLES.items()}
    return render(
        request, "api.html", groups=groups, titles=GROUPS, schemas=schema["components"]["schemas"], kinds=kinds,
        examples_of=partial(examples_of, schema["components"]["schemas"]), address=f"{request.url.scheme}://{request.url.netloc}")


def examples_of(schemas: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    """Return the example bodies of an operation, or without a body its example answer."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    examples: list[Any] = schemas.get(body.get("$ref", "").rpartition("/")[2], {}).get("examples", [])
    answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
    return examples or ([answer["example"]] if "example" in answer else [])


def _find(run: Run | None) -> Run:
    if run is None:
        raise HTTPException(404, "There is no run with this id. It may have been deleted.")
    return run


def _out(run: RunView) -> RunOut:
    return RunOut(**run.as_json())
