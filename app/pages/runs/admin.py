"""Admin: an overview, and the forms that start runs.  All of it needs an administrator."""

from __future__ import annotations

import shutil
from typing import Any, Literal, get_args

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from app.db.tables import Run, User
from app.jobs import queue
from app.jobs.places import launcher_names, names_of
from app.library.catalog import Catalog
from app.pages.dependencies import (
    AdminDep,
    CatalogDep,
    SessionDep,
    SettingsDep,
    SupervisorDep,
    WorkspaceDep,
    admin_user,
)
from app.pages.provenance import architecture_name
from app.pages.runs import spec_form
from app.pages.runs.estimate import Estimate, estimate, site_width
from app.pages.runs.evaluate_cost import evaluate_cost
from app.pages.runs.explain_cost import explain_cost
from app.pages.runs.place_form import place_from, place_group, read_place
from app.pages.runs.runs import runs_now
from app.pages.runs.spec_check import check_spec
from app.render.numbers import size
from app.web.templating import render
from sae.errors import UserError
from sae.explain.estimate import RequestEstimate
from sae.lm.model_info import DEMO, find_model
from sae.runs.kept import list_kept
from sae.specs.explain import Explainer
from sae.specs.registry import ActivationsSpec, command_line, parse_spec
from sae.workspace.paths import new_id, typed_path

router = APIRouter(prefix="/admin", dependencies=[Depends(admin_user)], include_in_schema=False)

Kind = Literal["train", "sweep", "index", "evaluate", "explain", "activations"]
TITLES = {"train": "Train an SAE", "sweep": "Train a grid of SAEs", "index": "Build an index",
          "evaluate": "Evaluate an SAE", "explain": "Explain latents", "activations": "Keep activations"}
COSTLY = ("train", "sweep", "evaluate", "explain", "activations")  # their forms estimate the cost


@router.get("")
def overview(
    request: Request, db: SessionDep, workspace: WorkspaceDep, catalog: CatalogDep, settings: SettingsDep,
    supervisor: SupervisorDep,
) -> Response:
    """Show what can be started, what is running, the clusters, and the SAEs of the workspace."""
    return render(
        request, "runs/admin.html", section="admin", runs=runs_now(db, workspace), saes=catalog.list_saes(),
        architecture_name=architecture_name,
        damaged=catalog.damaged(), clusters=supervisor.clusters, kept=list_kept(workspace),
        cluster_names=names_of(launcher_names(settings)),
        n_users=db.scalar(select(func.count()).select_from(User)), settings=settings,
        disk=shutil.disk_usage(settings.home))


@router.get("/{kind}/estimate")
def show_estimate(request: Request, kind: Kind, catalog: CatalogDep) -> Response:
    """Return the estimate and the command line for the present content of the form."""
    typed = spec_form.read_form(kind, request.query_params)
    return render(request, "runs/_estimate.html", **_outlook(request, kind, typed, catalog))


@router.get("/{kind}")
def form(
    request: Request, kind: Kind, db: SessionDep, catalog: CatalogDep, preset: str = "", sae: str = "", run: str = "",
    latents: str = "", explainer: str = "",
) -> Response:
    """Show the form with a preset, or with the settings of an earlier `run`, whose SAE keeps its name."""
    typed = spec_form.preset(kind, preset)
    if "sae" in typed:
        typed["sae"] = sae
    if latents and "latents" in typed:
        typed["latents"] = latents
    if explainer in get_args(Explainer) and "explainer" in typed:
        typed["explainer"] = explainer
    earlier = db.get(Run, run) if run else None
    if earlier is not None and earlier.kind == kind:
        typed |= earlier.spec
        if earlier.sae_id and catalog.get_sae(earlier.sae_id) is not None and "name" in typed:
            typed["name"] = ""
        return _page(request, kind, typed, {}, catalog, "", again=earlier)
    return _page(request, kind, typed, {}, catalog, preset)


@router.post("/{kind}")
async def read_and_submit(request: Request, kind: Kind, admin: AdminDep) -> Response:
    """Read the form, whose fields come from the spec, and handle it in a thread."""
    sent = await request.form()
    return await run_in_threadpool(_submit, request, kind, dict(sent), admin)


def _submit(request: Request, kind: Kind, sent: dict[str, Any], admin: User) -> Response:
    state = request.app.state
    catalog, workspace = state.catalog, state.settings.workspace
    typed = spec_form.read_form(kind, sent)
    values = spec_form.spec_values(kind, typed)
    errors = spec_form.find_errors(kind, values)
    if not errors:
        try:
            spec = check_spec(kind, values, catalog)
            place = place_from(state.settings, kind, read_place(sent))
        except UserError as error:
            errors = {error.field or "": str(error).removeprefix(f"{error.field}: ")}
    if errors:
        return _page(request, kind, typed, errors, catalog, "", str(sent.get("key", "")), place=read_place(sent))
    key = str(sent.get("key", ""))
    with state.sessions() as db:
        run_id = queue.enqueue(
            db, workspace, kind, spec.model_dump(mode="json"), admin.name, form_key=key[:80], place=place).id
    state.supervisor.wake()
    return RedirectResponse(f"/runs/{run_id}", 303)


def _page(
    request: Request, kind: Kind, typed: dict[str, Any], errors: dict[str, str], catalog: Catalog, preset: str,
    key: str = "", again: Run | None = None, place: dict[str, str] | None = None,
) -> Response:
    if again is not None and again.resources is not None:
        place = {"launcher": again.launcher, **{name: str(value) for name, value in again.resources.items() if value}}
    where = place_group(request.app.state.settings, kind, place or {}, errors)
    return render(
        request, "runs/form.html", 422 if errors else 200, section="admin", kind=kind, title=TITLES[kind], again=again,
        costly=kind in COSTLY,
        presets=spec_form.presets(kind), preset=preset, errors=errors,
        groups=[*spec_form.groups(kind, typed, errors), *([where] if where else [])],
        key=key or new_id("form"), saes=catalog.list_saes(), **_outlook(request, kind, typed, catalog))


def _outlook(request: Request, kind: Kind, typed: dict[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Return the estimate and the command line, or what is missing or at fault."""
    values = spec_form.spec_values(kind, typed)
    errors = spec_form.find_errors(kind, values)
    missing = [spec_form.label(name) for name in errors if name and values.get(name) == ""]
    name, message = next(iter(errors.items()), ("", ""))
    return {
        "cost": _cost(request, kind, values, catalog) if kind in COSTLY and not errors else None,
        "command": None if errors else command_line(kind, _as_spec(kind, values)),
        "missing": missing,
        "fault": message if message.startswith(f"{name} ") else f"{name}: {message}".removeprefix(": "),
    }


def _as_spec(kind: Kind, values: dict[str, Any]) -> dict[str, Any]:
    return parse_spec(kind, values).model_dump()


def _cost(
    request: Request, kind: Kind, values: dict[str, Any], catalog: Catalog,
) -> Estimate | RequestEstimate | str | None:
    """Return the estimate, or why there is none.  A hub name is not looked up while somebody types it."""
    if kind == "explain":
        return explain_cost(values, catalog, request.app.state.builds)
    if kind == "evaluate":
        return evaluate_cost(values, catalog)
    if kind == "activations":
        return _size_on_disk(ActivationsSpec(**values))
    spec = spec_form.spec_of(kind, values)
    if spec is None:
        return "No estimate: a setting is at fault."
    try:
        if spec.model != DEMO and not typed_path(spec.model, "model").is_dir():
            return "No estimate: the model is not on this machine, so its size is not known yet."
        return estimate(spec, find_model(spec.model), [sae.config for sae in catalog.list_saes()])
    except UserError as error:
        return str(error)


def _size_on_disk(spec: ActivationsSpec) -> str:
    """Return the size of kept activations, or why there is none."""
    try:
        if spec.model != DEMO and not typed_path(spec.model, "model").is_dir():
            return "No estimate: the model is not on this machine, so its width is not known yet."
        info = find_model(spec.model)
    except UserError as error:
        return str(error)
    width = sum(site_width(site, info) for site in (spec.site, spec.out_site) if site) * len(spec.layers)
    return f"{size(2 * spec.tokens * width)} on disk, or less if the text is shorter."
