"""A model's SAEs; an SAE's page, and a random latent of it."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import Sae
from app.library import explanations, labels
from app.library.catalog import Catalog
from app.library.evaluations import results_of, values_of
from app.library.exports import links_of_sae
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, WorkspaceDep
from app.pages.explore import latent_views, quality_views, sae_views
from app.pages.explore.explanation_views import ExplainedLatents
from app.pages.explore.measured_saes import published_rows, rows_of
from app.pages.explore.model_page import ModelQuery, model_page
from app.pages.explore.sae_list import in_order
from app.pages.json_twin import json_response
from app.pages.provenance import architecture_name, first_position, training_warning
from app.pages.runs.api import sae_out
from app.pages.sae_page import find_sae, open_build, page
from app.web.errors import NotHere
from app.web.templating import render
from sae.evaluation.published import read_published
from sae.lm.conformance.report import latest
from sae.lm.model_info import DEMO
from sae.store.build import Build

router = APIRouter(include_in_schema=False)


@router.get("/{model}.json")
def model_json(model: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep) -> JSONResponse:
    """Return the SAEs of a language model with their measures, the one with the lowest FVU first, and its
    conformance table."""
    published = read_published(workspace, model)
    saes = _saes_of(catalog, model, bool(published))
    rows = rows_of(saes, values_of(db, [sae.id for sae in saes]))
    report = latest(model, workspace)
    return JSONResponse({
        "model": model, "conformance": asdict(report) if report else None,
        "published": [asdict(one) for one in published],
        "saes": [sae_out(sae).model_dump() | {"values": {key: asdict(value) for key, value in row.values.items()}}
                 for sae, row in zip(saes, rows, strict=True)]})


@router.get("/{model}")
def show_model(
    request: Request, model: str, db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep,
) -> Response:
    """Show the SAEs of a language model in one table, plots of two measures, and what its conformance check found."""
    published = read_published(workspace, model)
    saes = _saes_of(catalog, model, bool(published))
    rows = rows_of(saes, values_of(db, [sae.id for sae in saes])) + published_rows(published)
    return render(
        request, "explore/model.html", model=model, view=model_page(rows, ModelQuery.read(request.query_params)),
        warning=training_warning(saes), json_url=f"/{model}.json", report=latest(model, workspace),
        embedded=model == DEMO, local=bool(saes))


def _saes_of(catalog: Catalog, model: str, others: bool) -> list[Sae]:
    """Return the SAEs of a language model.  Raises 404 if there is none, unless `others` were published."""
    saes = catalog.list_saes()
    found = in_order([sae for sae in saes if sae.model == model], "fvu")
    if not found and not others:
        models = sorted({sae.model for sae in saes})
        raise NotHere(f"There is no page /{model} here, and no language model of that name has an SAE.",
                      *[(f"SAEs of {name}", f"/{name}") for name in models[:8]])
    return found


@router.get("/{model}/{name}/random")
def any_latent(model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    """Redirect to a random alive latent."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        found = build.random_latents(1, seed=secrets.randbits(31))
    if not found:
        raise HTTPException(404, f"No latent of {sae.id} fired in the text of its build.")
    return RedirectResponse(f"/{sae.id}/{found[0]}", 303, {"Cache-Control": "no-store"})


@router.get("/{model}/{name}.json")
def sae_json(
    request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep, workspace: WorkspaceDep,
) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        return json_response(request, sae, build, lambda: {
            "config": sae.config, "meta": build.meta, "counts": build.counts(), "l0_hist": build.l0_hist(),
            "measures": [asdict(result) for result in results_of(workspace.sae(sae.id))],
            "density_histogram": build.density_histogram()}, build_only=False)  # an evaluation changes the metrics


@router.get("/{model}/{name}")
def show_sae(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    workspace: WorkspaceDep,
) -> Response:
    """Show the SAE's quality and configuration, its plots, and latents to start with."""
    sae = find_sae(catalog, model, name)
    rows = sae_views.training_rows(sae, workspace)
    common: dict[str, Any] = {
        "metrics": sae_views.metrics(sae), "architecture": architecture_name(sae.architecture),
        "curves": sae_views.curve_charts(rows), "exports": links_of_sae(sae),
        **quality_views.parts(workspace.sae(sae.id), sae.id)}
    if sae.current_build is None:
        return page(request, "explore/overview.html", sae, None, json_url="/api/saes", build=None, **common)
    with open_build(builds, sae) as build:
        starts = sae_views.starts(sae, build)
        return page(
            request, "explore/overview.html", sae, build.meta, build=build, counts=build.counts(), **common,
            l0_chart=sae_views.l0_chart(
                l0, sae, build.meta.get("bos_l0"), first=first_position(build.meta),
            ) if (l0 := build.l0_hist()) else None,
            density_chart=sae_views.density_chart(build), cosine_chart=sae_views.cosine_chart(build),
            norm_chart=sae_views.norm_chart(build), explained=ExplainedLatents.read(db, build, sae),
            starts=[(s, _start_rows(build, db, sae, s)) for s in starts])


def _start_rows(build: Build, db: Session, sae: Sae, start: sae_views.Start) -> list[latent_views.TableRow]:
    rows = {row.latent: row for row in build.some(start.latents)}
    written = labels.of_latents(db, sae.id, start.latents)
    names = explanations.names(db, sae.id, start.latents)
    return latent_views.table_rows(build, [rows[i] for i in start.latents], written, names=names)
