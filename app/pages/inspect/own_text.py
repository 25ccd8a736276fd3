"""A latent on the reader's own text: every token is shaded by its activation.

`GET /inspect/{model}/{sae}/{latent}?text=…` is a page; a POST from the latent's page gets the result alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.db.tables import Sae
from app.library.sae_reading import beyond_training
from app.pages.dependencies import Tools, ToolsDep
from app.pages.explore import latent_views
from app.pages.inspect.form import InspectForm, check
from app.pages.markup_choice import choice_of
from app.pages.provenance import provenance, provenance_words
from app.pages.sae_page import find_sae, need_weights, open_build
from app.render.token_text import Piece, text_pieces, token_label
from app.render.zoom import Zoom
from app.web.errors import wants_json
from app.web.parameters import PathNumber
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, CachedRequest, fault_answer
from app.worker.protocol import Inspect, Inspected, InspectedText
from sae.errors import UserError
from sae.steering.measurement_requests import InspectRequest
from sae.store.build import Build
from sae.store.records import Latent

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class OwnText:
    """The text as the latent sees it.  `acts` is by position, BOS first; the other numbers ignore special tokens."""

    ids: list[int]
    acts: list[float]
    pieces: list[Piece]
    n_tokens: int
    n_firings: int
    max: float
    at: str  # the token of the maximum


@router.post("/inspect/{model}/{name}/{number}")
@router.get("/inspect/{model}/{name}/{number}")
@router.get("/inspect/{model}/{name}/{number}.json")  # applied first, so it is matched first
async def show(request: Request, model: str, name: str, number: PathNumber, tools: ToolsDep) -> Response:
    """Show where the latent fires on `text`."""
    sae = find_sae(tools.catalog, model, name)
    need_weights(sae)
    values = await request.form() if request.method == "POST" else request.query_params
    text = str(values.get("text", "")).replace("\r\n", "\n")
    form = InspectForm(text=text, sae=sae.id, markup=str(values.get("markup", "")))
    cached = None
    if await run_in_threadpool(check, form, tools.catalog):
        message = Inspect(
            request=InspectRequest(model=str(sae.config["model"]["name"]), saes=(sae.id,), texts=(text,), top=1,
                                   latents=(number,), markup=choice_of(form.markup)),
            folders={sae.id: str(tools.workspace.sae(sae.id))})
        key = ("own text", sae.id, sae.current_build, sae.created, number, text, form.markup)
        cached = await tools.cached_requests.ask(key, message, 60.0 if wants_json(request) else PATIENCE_S)
    return await run_in_threadpool(_show, request, tools, sae, number, form, cached)


def _show(
    request: Request, tools: Tools, sae: Sae, number: int, form: InspectForm, cached: CachedRequest | None,
) -> Response:
    status, headers, waiting, fault = 200, dict[str, str](), "", ""
    if cached is None:
        field, said = next(iter(form.errors.items()))
        if wants_json(request):
            raise UserError(f"{field}: {said}", field)
        fault, status = said if form.text else "", 422 if form.text else 200
    elif cached.last is None:
        waiting, status = cached.note, 202 if wants_json(request) else 200
    elif cached.fault is not None:
        fault, status, headers = fault_answer(cached)
    with open_build(tools.builds, sae) as build:
        latent = build.latent(number)
        if latent is None:
            raise HTTPException(404, f"{sae.id} has {sae.n_latents:,} latents; there is no latent {number}.")
        found = None
        if cached and isinstance(cached.last, Inspected):
            found = _own_text(build, latent, cached.last.texts[0])
        if wants_json(request):
            return JSONResponse(_json(sae, build, latent, found, waiting, fault), status, headers)
        context: dict[str, Any] = {
            "sae": sae, "latent": latent, "text": form.text, "markup": form.markup, "waiting": waiting,
            "fault": fault, "found": found, "beyond": beyond_training(sae.config, len(found.ids)) if found else None}
        if is_htmx(request):
            zoom = Zoom("acts", f"/{sae.id}/{number}")
            chart = latent_views.activation_chart(latent, build.meta, zoom, found.max if found else None)
            return render(request, "inspect/_own_text_result.html", 200, headers, **context, chart=chart)
        return render(
            request, "inspect/own_text.html", status, headers, **context, chart=None, current_sae=sae,
            section="latents", strip=provenance_words(sae, build.meta), meta=build.meta,
            json_url=f"/inspect/{sae.id}/{number}.json?{request.url.query}")


def _own_text(build: Build, latent: Latent, text: InspectedText) -> OwnText:
    acts = [0.0] * len(text.ids)
    for position, number, act in zip(text.saes[0].pos, text.saes[0].lat, text.saes[0].act, strict=True):
        if number == latent.latent:
            acts[position] = act
    counted = [i for i, special in enumerate(text.special) if not special]
    peak = max(counted, key=lambda i: acts[i], default=0)
    most = acts[peak] if counted else 0.0
    info = build.vocabulary
    return OwnText(
        text.ids, acts,
        text_pieces(text.ids, info, acts, max(latent.max_act or 0.0, most), peak=peak if most else None),
        len(counted), sum(acts[i] > 0 for i in counted), most, token_label(info[text.ids[peak]]))


def _json(
    sae: Sae, build: Build, latent: Latent, found: OwnText | None, waiting: str, fault: str,
) -> dict[str, Any]:
    if found is None:
        return {"error": fault} if fault else {"state": waiting}
    return {"provenance": provenance(sae, build.meta), "latent": latent.latent, "tokens": found.ids, "acts": found.acts,
            "max": found.max, "firings": found.n_firings,
            "longer_than_training_context": beyond_training(sae.config, len(found.ids))}
