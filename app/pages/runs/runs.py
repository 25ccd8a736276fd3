"""Runs: the list, a run's page that is renewed while it works, and what an administrator may do to it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Run, User
from app.jobs import parts, queue
from app.jobs.folders import log_tail
from app.library.catalog import Catalog
from app.pages.dependencies import AdminDep, CatalogDep, SessionDep, SupervisorDep, UserDep, WorkspaceDep
from app.pages.runs import api, spec_form
from app.pages.runs.api import RunOut
from app.pages.runs.run_views import RunView, curves, progress_rows, rate_split, view
from app.pages.runs.sweep_views import members, trade_offs
from app.web.templating import render
from sae.runs.folder import RunFolder
from sae.specs.registry import command_line
from sae.workspace.paths import Workspace

router = APIRouter(include_in_schema=False)

STOP_POLLING = 286  # htmx's own status: swap this answer, and stop polling


def find(db: Session, workspace: Workspace, run_id: str) -> RunView:
    """Return the run's view.  Raises 404."""
    run = db.get(Run, run_id)
    if run is None:
        raise HTTPException(404, f"There is no run {run_id}. It may have been deleted; its SAE, if it made one, stays.")
    return view(run, workspace, queue.waiting(db), parts.of(db, run_id))


def runs_now(db: Session, workspace: Workspace) -> list[RunView]:
    """Return the active and queued runs in their order, for the home page."""
    waiting = queue.waiting(db)
    rows = [*queue.active(db), *(db.get_one(Run, run_id) for run_id in waiting)]
    return [view(run, workspace, waiting) for run in rows]


@router.get("/runs.json")
def list_runs_json(db: SessionDep, workspace: WorkspaceDep) -> list[RunOut]:
    """Return the latest runs, as `/api/runs` does."""
    return api.list_runs(db, workspace)


@router.get("/runs")
def list_runs(request: Request, db: SessionDep, workspace: WorkspaceDep, user: UserDep) -> Response:
    waiting = queue.waiting(db)
    shown = [view(run, workspace, waiting) for run in queue.newest(db, 200)]
    template = "runs/_table.html" if request.headers.get("HX-Request") else "runs/list.html"
    return render(
        request, template, runs=shown, moving=any(not run.finished for run in shown), section="runs",
        json_url="/runs.json", is_admin=user is not None and user.is_admin)


@router.get("/runs/{run_id}.json")
def run_json(run_id: str, db: SessionDep, workspace: WorkspaceDep) -> RunOut:
    """Return a run, as `/api/runs/{run_id}` does."""
    return api.read_run(run_id, db, workspace)


@router.get("/runs/{run_id}")
def show_run(
    request: Request, run_id: str, db: SessionDep, workspace: WorkspaceDep, catalog: CatalogDep, user: UserDep
) -> Response:
    run = find(db, workspace, run_id)
    return render(
        request, "runs/run.html", **_moving(run, workspace, catalog, user), section="runs",
        json_url=f"/runs/{run_id}.json", settings=spec_form.in_order(run.run.kind, run.run.spec),
        command=command_line(run.run.kind, run.run.spec))


@router.get("/runs/{run_id}/live")
def live(
    request: Request, run_id: str, db: SessionDep, workspace: WorkspaceDep, catalog: CatalogDep, user: UserDep
) -> Response:
    """Return the part of the run's page that is renewed."""
    run = find(db, workspace, run_id)
    return render(
        request, "runs/_live.html", STOP_POLLING if run.finished else 200, **_moving(run, workspace, catalog, user))


@router.get("/runs/{run_id}/card")
def card(request: Request, run_id: str, db: SessionDep, workspace: WorkspaceDep, user: UserDep) -> Response:
    """Return a run in short, as other pages embed it (`runs/_card.html`, which wants `run`)."""
    run = find(db, workspace, run_id)
    return render(
        request, "runs/_card.html", STOP_POLLING if run.finished else 200, run=run, charts=card_charts(run, workspace))


@router.get("/runs/{run_id}/log.txt")
def read_log(run_id: str, db: SessionDep, workspace: WorkspaceDep) -> Response:
    """Return the last 1,000 lines of the log, as text."""
    find(db, workspace, run_id)
    lines = log_tail(RunFolder(workspace.run(run_id)), 1000)
    return Response("\n".join(lines) + "\n", media_type="text/plain; charset=utf-8")


@router.post("/runs/{run_id}/cancel")
def cancel(
    run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, supervisor: SupervisorDep
) -> Response:
    find(db, workspace, run_id)
    queue.cancel(db, workspace, run_id)  # changes nothing for a run that has ended
    supervisor.wake()
    return RedirectResponse(f"/runs/{run_id}", 303)


@router.post("/runs/{run_id}/resume")
def resume(
    run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, supervisor: SupervisorDep
) -> Response:
    run = find(db, workspace, run_id)
    if not queue.resume(db, workspace, run_id, admin.name):
        if run.word == "stopping":
            raise HTTPException(409, "The run is still stopping; resume it when it has.")
        if run.finished:
            raise HTTPException(409, f"The run has {run.state}; there is nothing to resume.")
    supervisor.wake()
    return RedirectResponse(f"/runs/{run_id}", 303)


@router.get("/runs/{run_id}/delete")
def ask_delete(request: Request, run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep) -> Response:
    """Ask for confirmation on a page, which works without JavaScript."""
    return render(request, "runs/delete.html", run=find(db, workspace, run_id), section="runs")


@router.post("/runs/{run_id}/delete")
def delete(
    run_id: str, admin: AdminDep, db: SessionDep, workspace: WorkspaceDep, sure: Annotated[str, Form()] = ""
) -> Response:
    run = find(db, workspace, run_id)
    if sure != "yes":
        return RedirectResponse(f"/runs/{run_id}/delete", 303)
    if not queue.delete(db, workspace, run_id):
        raise HTTPException(409, f"The run is {run.state}; cancel it first, then delete it.")
    return RedirectResponse("/runs", 303)


def card_charts(run: RunView, workspace: Workspace) -> list[Any]:
    """Return the three curves of a training run in the card: FVU, L0, dead latents."""
    if run.run.kind != "train" or not run.going:
        return []
    return curves(progress_rows(run.run, workspace), table=False, first=3)


def _moving(run: RunView, workspace: Workspace, catalog: Catalog, user: User | None) -> dict[str, Any]:
    sae = catalog.get_sae(run.run.sae_id) if run.run.sae_id else None
    rows = progress_rows(run.run, workspace) or [
        row for part in run.parts for row in progress_rows(part.run, workspace)]
    swept = members(run.run.kind, run.run.spec, rows, run.status)
    return {
        "known": {one.id for one in catalog.list_saes()},
        "run": run, "charts": trade_offs(swept) if swept else curves(rows, run.finished), "members": swept,
        "split": rate_split(rows), "sae": sae,
        "log": log_tail(RunFolder(workspace.run(run.id))), "is_admin": user is not None and user.is_admin,
    }
