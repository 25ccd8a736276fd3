"""SAEs, builds and single latents in the formats of other tools.

`/api/feature/{model}/{source}/{index}` has the address and the keys of Neuronpedia's, so that
scripts written for it work here.
"""

from __future__ import annotations

import io
import json
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from app.db.tables import LatentExplanation, Sae
from app.library import explanations
from app.library.explanation_texts import LABEL
from app.library.exports import Downloads
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, WorkspaceDep
from app.pages.json_twin import of_build, unchanged
from app.pages.sae_page import find_sae, latent_number, open_build
from app.web.errors import NotHere
from sae.errors import UserError
from sae.evaluation import saebench
from sae.evaluation.results import read_result
from sae.formats.writers import circuit_tracer, neuronpedia
from sae.formats.writers.dashboard_rows import Exporter
from sae.formats.writers.mapped_tensors import mapped
from sae.formats.writers.neuronpedia import Explanation, source_id
from sae.formats.writers.saelens import saelens_config

router = APIRouter()


@router.get("/{model}/{name}/export/{kind}.zip", include_in_schema=False)
def export(
    request: Request, model: str, name: str, kind: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    workspace: WorkspaceDep,
) -> Response:
    """Send the SAE or its build as a zip, which is made while it is sent."""
    sae = find_sae(catalog, model, name)
    downloads: Downloads = request.app.state.downloads
    return downloads.start(kind, sae, workspace, builds, _explanations(db, sae))


@router.get("/{model}/{name}/saebench.json", summary="A measure as a result file of SAEBench", tags=["saes"])
def saebench_json(
    model: str, name: str, catalog: CatalogDep, workspace: WorkspaceDep, measure: str = "core",
) -> Response:
    """Return the numbers of a measure (core, probing, absorption or meta_sae) in SAEBench's form."""
    sae = find_sae(catalog, model, name)
    if measure not in saebench.KINDS:
        raise HTTPException(422, f"measure: {measure[:40]!r} is not one of {', '.join(saebench.KINDS)}")
    result = read_result(workspace.sae(sae.id), measure)
    if result is None or not result.values:
        raise NotHere(f"{sae.id} was not measured. On the command line: saescope evaluate --sae {sae.id} "
                      f"--measures {measure}", ("Evaluate it", f"/admin/evaluate?sae={quote(sae.id, safe='')}"))
    try:
        saelens = saelens_config(sae.config)
    except UserError:  # SAELens cannot express the SAE, but its numbers can be written
        saelens = {}
    return Response(json.dumps(saebench.result_json(result, sae.config, saelens), indent=2, allow_nan=False),
                    media_type="application/json", headers={
                        "Content-Disposition": f'inline; filename="{saebench.file_name(sae.config, measure)}"',
                        "Cache-Control": "no-cache"})


@router.get("/{model}/{name}/{number}.npy", include_in_schema=False)
def decoder_vector(model: str, name: str, number: str, catalog: CatalogDep, workspace: WorkspaceDep) -> Response:
    """Return the latent's decoder direction, [d_model] float32 of unit norm, as a `.npy` file."""
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    if sae.config.get("weights") == "none":
        raise HTTPException(404, f"{sae.id} is a dashboard made elsewhere. It has no weights and no decoder vectors.")
    try:
        vector_D = np.array(mapped(workspace.sae(sae.id) / "sae.safetensors")["W_dec"][latent])
    except (UserError, KeyError, IndexError) as error:
        raise HTTPException(404, f"The decoder of {sae.id} cannot be read: {error}") from None
    file = io.BytesIO()
    np.save(file, vector_D, allow_pickle=False)
    return Response(file.getvalue(), media_type="application/octet-stream", headers={
        "Content-Disposition": f'attachment; filename="{sae.name}-{latent}.npy"', "Cache-Control": "no-cache"})


@router.get("/{model}/{name}/{number}.circuit-tracer.json", include_in_schema=False)
def circuit_tracer_json(
    request: Request, model: str, name: str, number: str, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    """Return the latent as the feature file that attribution-graph viewers read."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        if (same := unchanged(request, build)) is not None:
            return same
        number_of = latent_number(sae, number)
        found = build.records(number_of, number_of + 1)
        if not found:
            raise HTTPException(404, f"Build {build.id} has no row for latent {number} of {sae.id}.")
        answer = JSONResponse(circuit_tracer.feature_json(Exporter(build, sae.config), *found[0]))
        return of_build(answer, build, request)


@router.get("/{model}/{name}/{number}.neuronpedia.json", include_in_schema=False)
def neuronpedia_json(
    model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    return _feature(find_sae(catalog, model, name), number, db, builds)


@router.get("/api/feature/{model}/{source}/{index}", tags=["latents"],
            summary="A latent in the shape of Neuronpedia's interface")
def feature(
    model: str, source: str, index: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    """Return the latent's row with its activations, explanations and source.

    `source` is the SAE's name, or `{layer}-{name}` if the name does not begin with its layer.
    """
    sae = catalog.get_sae(f"{model}/{source}") or next(
        (row for row in catalog.list_saes() if row.model == model and source_id(row.config) == source), None)
    return _feature(sae or find_sae(catalog, model, source), index, db, builds)


def _feature(sae: Sae, number: str, db: Session, builds: BuildsDep) -> Response:
    latent = latent_number(sae, number)
    with open_build(builds, sae) as build:
        found = build.records(latent, latent + 1)
        if not found:
            raise HTTPException(404, f"Build {build.id} has no row for latent {latent} of {sae.id}.")
        written = _explanations(db, sae, latent).get(latent, [])
        return Response(json.dumps(neuronpedia.feature_json(Exporter(build, sae.config), *found[0], written),
                                   allow_nan=False), media_type="application/json")


def _explanations(db: Session, sae: Sae, latent: int | None = None) -> dict[int, list[Explanation]]:
    """Return the explanations of one latent or of all, each list with the chosen one first."""
    def written(one: LatentExplanation) -> Explanation:
        return Explanation(
            one.text, one.author, "" if one.method == LABEL else one.method, one.model)

    return {number: [written(one) for one in rows]
            for number, rows in explanations.everything(db, sae.id, latent).items()}
