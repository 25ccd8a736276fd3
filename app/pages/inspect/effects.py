"""A latent's effects on the model: shown, and measured on request.

`GET /effects/{model}/{sae}/{latent}` shows what is known, or a button; the latent's page shows it in a card.  `POST` to
the same address measures.  `POST /effects/{model}/{sae}/scores` measures the output scores of many latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from app.db.tables import LatentEffect, Sae
from app.library import latent_effects
from app.pages.dependencies import Tools, ToolsDep
from app.pages.inspect import effects_view
from app.pages.sae_page import find_sae, need_weights, open_build
from app.web.errors import wants_json
from app.web.parameters import PathNumber, whole_number
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, CachedRequest, fault_answer
from app.worker.protocol import Ablate, Ablated, Score, Scored
from sae.errors import UserError
from sae.steering.measurement_requests import MAX_SCORED

router = APIRouter(include_in_schema=False)



@router.post("/effects/{model}/{name}/scores")
async def measure_scores(request: Request, model: str, name: str, tools: ToolsDep) -> Response:
    """Measure the output scores of the latents in the `latent` fields and wait for them.  Known ones are kept."""
    scores = await scores_of(tools, model, name, (await request.form()).getlist("latent"))
    if wants_json(request):
        return JSONResponse({"scores": {str(latent): score for latent, score in scores.items()}})
    headers = {"HX-Refresh": "true"} if is_htmx(request) else {}
    return Response(status_code=204, headers=headers) if headers else RedirectResponse(f"/{model}/{name}/latents", 303)


async def scores_of(tools: Tools, model: str, name: str, numbers: Sequence[Any]) -> dict[int, float | None]:
    """Return the output scores of latents, and measure those that are not known.

    Raises UserError (field `latent`), and 422 or 503 with the reason if the model worker cannot measure them.
    """
    sae = find_sae(tools.catalog, model, name)
    need_weights(sae)
    latents = _numbers(numbers, sae)
    asked = await run_in_threadpool(_unscored, tools, sae, latents)
    if asked:
        message = await run_in_threadpool(_score_message, tools, sae, asked)
        cached = await tools.cached_requests.ask(("scores", sae.id, sae.current_build, tuple(asked)), message, 600.0)
        if cached.fault or not isinstance(cached.last, Scored):
            words, status, headers = fault_answer(cached)
            raise HTTPException(status, words, headers)
        find_sae(tools.catalog, model, name)  # it may have been deleted since
        await run_in_threadpool(effects_view.store_scores, tools.db, sae, cached.last.scores)
    known = await run_in_threadpool(latent_effects.scores, tools.db, sae.id, str(sae.current_build))
    return {latent: known.get(latent) for latent in latents}


def _numbers(values: Sequence[Any], sae: Sae) -> list[int]:
    found = [whole_number(str(value), sae.n_latents) for value in values]
    numbers = [number for number in found if number is not None]
    if not numbers or len(numbers) < len(values):
        raise UserError(f"latent: numbers from 0 to {sae.n_latents - 1:,}", "latent")
    if len(numbers) > MAX_SCORED:
        raise UserError(f"latent: {len(numbers):,} latents; {MAX_SCORED:,} at most", "latent")
    return sorted(set(numbers))


def _unscored(tools: Tools, sae: Sae, latents: list[int]) -> list[int]:
    known = latent_effects.scores(tools.db, sae.id, str(sae.current_build))
    return [latent for latent in latents if latent not in known]


def _score_message(tools: Tools, sae: Sae, latents: list[int]) -> Score:
    with open_build(tools.builds, sae) as build:
        return effects_view.score_message(sae, build, latents, tools.workspace)


@router.get("/effects/{model}/{name}/{number}")
@router.get("/effects/{model}/{name}/{number}.json")  # applied first, so it is matched first
async def show(request: Request, model: str, name: str, number: PathNumber, tools: ToolsDep) -> Response:
    """Show what is known of the latent's effects, what is being measured, or the button that starts it."""
    sae = find_sae(tools.catalog, model, name)
    need_weights(sae)
    going = [cached for key in _keys(sae, number) if (cached := tools.cached_requests.going(key)) is not None]
    return await _answer(request, tools, sae, number, asked=bool(going), patience_s=PATIENCE_S)


@router.post("/effects/{model}/{name}/{number}")
async def measure(request: Request, model: str, name: str, number: PathNumber, tools: ToolsDep) -> Response:
    """Measure the latent's effects."""
    sae = find_sae(tools.catalog, model, name)
    need_weights(sae)
    if is_htmx(request):
        return await _answer(request, tools, sae, number, asked=True, patience_s=0.3)
    answer = await _answer(request, tools, sae, number, asked=True, patience_s=60.0)
    return answer if wants_json(request) or answer.status_code >= 400 else RedirectResponse(
        f"/effects/{sae.id}/{number}", 303)


def _keys(sae: Sae, number: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
    return (("score", sae.id, sae.current_build, number), ("ablation", sae.id, sae.current_build, number))


async def _answer(
    request: Request, tools: Tools, sae: Sae, number: int, *, asked: bool, patience_s: float
) -> Response:
    messages = await run_in_threadpool(_messages, tools, sae, number)
    known = await run_in_threadpool(latent_effects.stored, tools.db, sae, number)
    pending: list[CachedRequest] = []
    if asked:
        wanted = [known is None or known.tokens is None, known is None or known.ablation is None]
        for key, message, want in zip(_keys(sae, number), messages, wanted, strict=True):
            if want and message is not None:  # both are asked before either is waited for
                await tools.cached_requests.begin(key, message)
        for key, message, want in zip(_keys(sae, number), messages, wanted, strict=True):
            if want and message is not None:
                pending.append(await tools.cached_requests.ask(key, message, patience_s))
    return await run_in_threadpool(_show, request, tools, sae, number, pending)


def _messages(tools: Tools, sae: Sae, number: int) -> tuple[Score, Ablate | None]:
    with open_build(tools.builds, sae) as build:
        latent = build.latent(number)
        if latent is None:
            raise HTTPException(404, f"{sae.id} has {sae.n_latents:,} latents; there is no latent {number}.")
        return (effects_view.score_message(sae, build, [number], tools.workspace),
                effects_view.ablation_message(sae, build, latent, tools.workspace))


def _show(request: Request, tools: Tools, sae: Sae, number: int, pending: list[CachedRequest]) -> Response:
    waiting, fault, status, headers = "", "", 200, dict[str, str]()
    sae = find_sae(tools.catalog, sae.model, sae.name)  # it may have been deleted since
    for cached in pending:
        if isinstance(cached.last, Scored):
            effects_view.store_scores(tools.db, sae, cached.last.scores)
        elif isinstance(cached.last, Ablated):
            effects_view.store_ablation(tools.db, sae, cached.last)
        elif cached.last is None:
            waiting = cached.note
        else:
            fault, status, headers = fault_answer(cached)
    row = latent_effects.stored(tools.db, sae, number)
    if wants_json(request):
        return JSONResponse(_json(sae, number, row, waiting, fault), status if fault else 202 if waiting else 200,
                            headers)
    with open_build(tools.builds, sae) as build:
        latent = build.latent(number)
        context = {"sae": sae, "latent": latent, "waiting": waiting if not fault else "", "fault": fault,
                   "effect": effects_view.effect_view(row, build) if row else None, "strength": effects_view.STRENGTH,
                   "prompts": effects_view.PROMPTS}
    if is_htmx(request):
        return render(request, "inspect/_effects_panel.html", 200, headers, **context)
    return render(request, "inspect/effects.html", status, headers, current_sae=sae, section="latents",
                  json_url=f"/effects/{sae.id}/{number}.json", **context)


def _json(sae: Sae, number: int, row: LatentEffect | None, waiting: str, fault: str) -> dict[str, Any]:
    values = {"sae": sae.id, "build": sae.current_build, "latent": number, "score": row.score if row else None,
              "score_tokens": (row.tokens or {}).get("ids") if row else None,
              "ablation": row.ablation if row else None}
    return values | ({"error": fault} if fault else {"state": waiting} if waiting else {})
