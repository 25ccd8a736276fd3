"""Steering: the form, and the requests that make a run of it.

`POST /steer` makes a run of texts, `POST /steer/sweep` a run of one latent at many strengths.  Both answer with the
run's address (`app/pages/steer/run_page.py`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import ImmutableMultiDict

from app.db.tables import SteerRun
from app.pages.dependencies import (
    BuildsDep,
    CachedRequestsDep,
    CatalogDep,
    SessionDep,
    SteeringDep,
    ToolsDep,
    WorkspaceDep,
)
from app.pages.earlier import STEERED
from app.pages.find.phrase import read_phrase
from app.pages.steer.earlier_runs import earlier_runs
from app.pages.steer.form import (
    MODE_NAMES,
    NUMBERS,
    POSITIONS,
    Chip,
    Form,
    default_values,
    form_of,
    new_seed,
    read_form,
    slider_position,
)
from app.pages.steer.form_check import check, check_sweep, swept_place
from app.pages.steer.lookup import Sources
from app.pages.steer.result import find, run_context
from app.pages.steer.run_view import run_view, stored_request, whole_text
from app.pages.steer.sweep_strengths import default_strengths, strengths_text
from app.web.errors import wants_json
from app.web.parameters import whole_number
from app.web.templating import is_htmx, render
from app.worker.protocol import Warm
from app.worker.relayed_runs import message_of
from app.worker.steering_runs import LiveRun
from sae.steering.measurement_requests import MAX_STRENGTHS, SweepRequest
from sae.steering.request import MAX_LATENTS, MAX_LENGTH, MAX_SAMPLES, MODES, SteerRequest
from sae.workspace.paths import Workspace, new_id

router = APIRouter(include_in_schema=False)

_RETRY_AFTER_S = 5
_BUSY = "The model worker has all the runs it can hold. Nothing was lost: try again in a few seconds."


def get_sources(catalog: CatalogDep, builds: BuildsDep, db: SessionDep) -> Sources:
    return Sources(catalog, builds, db)


SourcesDep = Annotated[Sources, Depends(get_sources)]


# ---- the form


@router.get("/steer")
def show_form(
    request: Request, sources: SourcesDep, db: SessionDep, runs: SteeringDep, fork: str | None = None,
) -> Response:
    """Show the form, filled from the address, a run (`?fork=<id>`) or with an example.  htmx gets the form alone."""
    form = _forked(request, db, runs, fork) if fork else _form_from(request.query_params, sources)
    if fork:
        sources.look_up(form)
    return _show_form(request, form, sources)


def _forked(request: Request, db: SessionDep, runs: SteeringDep, run_id: str) -> Form:
    """Return a run's form; `strength` is a new one for the latent at `place`, `reply` continues a chat's answer."""
    row = find(db, runs, run_id).row
    form = form_of(*stored_request(row))
    strength = request.query_params.get("strength")
    place = whole_number(request.query_params.get("place", "0"), len(form.chips))
    if strength is not None and place is not None:
        chip = form.chips[place]
        setattr(chip, NUMBERS.get(chip.mode, "strength"), strength)  # type: ignore[call-overload]
    found = whole_text(row, request.query_params.get("reply", ""))
    if found is not None and form.chat:
        answer = b"".join(found[1].token_bytes()).decode("utf-8", errors="replace")
        form.said += [("user", form.prompt), ("assistant", answer)]
        form.prompt = ""
    return form


@router.post("/steer/form")
async def change_form(request: Request, sources: SourcesDep) -> Response:
    """Show the form with a latent added or removed, or a new seed.  A prompt may be too long for a GET."""
    data = await request.form()
    form = await run_in_threadpool(_form_from, data, sources)
    return await run_in_threadpool(_show_form, request, form, sources)


@router.get("/steer/earlier")
def show_earlier(request: Request, db: SessionDep) -> Response:
    """Return the list of the runs that this browser made."""
    return render(request, "steer/_earlier.html", earlier=earlier_runs(db, request))


@router.get("/steer/latents")
async def search_latents(
    request: Request, sources: SourcesDep, tools: ToolsDep, add: str = "", add_sae: str = "", read: str = "",
) -> Response:
    """Return the latents that the text in the “Add latent” field may mean.

    With `read=1` those are listed, too, that are active on it.
    """
    text = add.strip()[:200]
    if not text or whole_number(text) is not None:
        return JSONResponse([]) if wants_json(request) else await run_in_threadpool(
            render, request, "steer/_found.html", found=None, add=text)
    scope = await run_in_threadpool(sources.scope, add_sae)
    said = await read_phrase(tools, scope, text) if scope is not None and read == "1" else None
    found = await run_in_threadpool(sources.search, add_sae, text, said)
    if wants_json(request):
        return JSONResponse([
            {"latent": one.found.latent, "reason": one.found.best[0].words, "tokens": one.found.best[0].tokens,
             "label": one.title} for one in found.results])
    return await run_in_threadpool(render, request, "steer/_found.html", found=found, add=text)


@router.get("/steer/warm")
async def warm(sources: SourcesDep, workspace: WorkspaceDep, cached_requests: CachedRequestsDep, sae: str) -> Response:
    """Let the worker load an SAE and its model, as a reader has a page open that may steer with it."""
    row = await run_in_threadpool(sources.sae, sae)
    if row is not None:
        model = str(row.config["model"]["name"])
        cached_requests.hint(Warm(model=model, folders={row.id: str(workspace.sae(row.id))}))
    return Response(status_code=204)


@router.get("/steer.json")
def form_json(request: Request, sources: SourcesDep) -> dict[str, Any]:
    """Return the fields of `POST /steer`, filled in as on the page."""
    form = _form_from(request.query_params, sources)
    return {
        "prompt": form.prompt, **form.values, "sweep": form.values["sweep"] or _swept_text(form),
        "special": form.special, "control": form.control, "chat": form.chat,
        "latents": [{"sae": c.sae, "latent": c.number, "mode": c.mode, "strength": c.value("strength"),
                     "target": c.value("target"), "factor": c.value("factor"), "max_act": c.max_act,
                     "norm_ratio": c.ratio("strength")} for c in form.chips],
        "choices": {"mode": MODES, "positions": POSITIONS},
        "limits": {"latents": MAX_LATENTS, "length": MAX_LENGTH, "samples": MAX_SAMPLES, "strengths": MAX_STRENGTHS}}


def _form_from(query: ImmutableMultiDict[str, Any], sources: Sources) -> Form:
    form = read_form(query)
    _add(form, sources)
    drop = whole_number(str(query.get("drop", "")), len(form.chips))
    if drop is not None:
        del form.chips[drop]
    if query.get("new_seed"):
        form.values["seed"] = new_seed()
    if query.get("forget"):  # start a new chat
        form.said = []
    if inspection := str(query.get("inspection", "")):
        form.prompt = form.prompt or sources.inspected_text(inspection)
    if form.chips or "drop" in query or form.prompt or form.add:
        sources.complete(form)
        return form
    example = sources.example(query.get("sae"))
    example.values = form.values
    return example


def _add(form: Form, sources: Sources) -> None:
    """Add the latent whose number was typed; for other text, find latents that the reader can choose from."""
    if not form.add:
        return
    if whole_number(form.add) is None:
        form.found = sources.search(form.add_sae, form.add)
        return
    form.chips.append(Chip(sae=form.add_sae, latent=form.add))
    form.add = ""


def _show_form(request: Request, form: Form, sources: Sources) -> Response:
    name = "steer/_form.html" if is_htmx(request) else "steer/page.html"
    return render(request, name, **form_page(request, form, sources))


def form_page(request: Request, form: Form, sources: Sources) -> dict[str, Any]:
    """Return the context of the page without a run."""
    saes = sources.steerable()
    current = next((sae for chip in form.chips for sae in saes if sae.id == chip.sae), saes[0] if saes else None)
    return {
        "run": None, "earlier": earlier_runs(sources.db, request), "form": form,
        "saes": saes, "current_sae": current, "modes": MODES, "mode_names": MODE_NAMES,
        "positions": POSITIONS, "section": "steer", "json_url": "/steer.json", "defaults": default_values(),
        "sweep_text": _sweep_text, "swept_text": _swept_text(form),
        "can_chat": current is not None and sources.can_chat(current), "slider": slider_position}


def _swept_text(form: Form) -> str:
    place = swept_place(form)
    return _sweep_text(form.chips[place]) if place is not None else ""


def _sweep_text(chip: Chip, mode: str = "") -> str:
    """Return what a sweep of the latent tries where no strengths are typed, in its own mode or another."""
    return strengths_text(default_strengths(replace(chip, mode=mode or chip.mode)))


# ---- runs


@router.post("/steer")
async def create(
    request: Request, sources: SourcesDep, db: SessionDep, runs: SteeringDep, workspace: WorkspaceDep
) -> Response:
    """Check the form, store the run and start it.  Faults are shown at their fields; everything typed is kept."""
    return await create_run(request, await request.form(), sources, db, runs, workspace)


async def create_run(
    request: Request, data: ImmutableMultiDict[str, Any], sources: Sources, db: SessionDep, runs: SteeringDep,
    workspace: Workspace, *, complete: bool = False,
) -> Response:
    """Start the run that these fields of the form make; `complete` gives missing strengths their usual values."""
    form, steer = await run_in_threadpool(_read_and_check, data, sources, complete)
    if steer is None:
        return await run_in_threadpool(_show_faults, request, form, sources, 422)
    return await _begin(request, data, sources, db, runs, workspace, form, steer, None)


@router.post("/steer/sweep")
async def create_sweep(
    request: Request, sources: SourcesDep, db: SessionDep, runs: SteeringDep, workspace: WorkspaceDep
) -> Response:
    """Check the form, store a sweep of one latent and start it."""
    return await create_sweep_run(request, await request.form(), sources, db, runs, workspace)


async def create_sweep_run(
    request: Request, data: ImmutableMultiDict[str, Any], sources: Sources, db: SessionDep, runs: SteeringDep,
    workspace: Workspace, *, complete: bool = False,
) -> Response:
    """Start the sweep that these fields of the form make; `complete` as in `create_run`."""
    form, steer = await run_in_threadpool(_read_and_check, data, sources, complete)
    sweep = await run_in_threadpool(_read_sweep, form, steer, sources)
    if steer is None or sweep is None:
        return await run_in_threadpool(_show_faults, request, form, sources, 422)
    return await _begin(request, data, sources, db, runs, workspace, form, sweep.request, sweep)


async def _begin(
    request: Request, data: ImmutableMultiDict[str, Any], sources: Sources, db: SessionDep, runs: SteeringDep,
    workspace: Workspace, form: Form, steer: SteerRequest, sweep: SweepRequest | None,
) -> Response:
    if data.get("replaces"):  # the run that this page showed so far stops at once
        await runs.stop_anywhere(str(data["replaces"]))
    if runs.full:
        form.errors["form"] = _BUSY
        return await run_in_threadpool(_show_faults, request, form, sources, 503)
    row = await run_in_threadpool(_store, db, runs, form, steer, sweep)
    live = runs.start(row.id, message_of(row.request, workspace))
    return _created(request, row, live, form)


def _created(request: Request, row: SteerRun, live: LiveRun, form: Form) -> Response:
    place = f"/steer/{row.id}"
    response: Response
    if wants_json(request):
        response = JSONResponse({"id": row.id, "url": place}, 201, {"Location": place})
    elif is_htmx(request):
        names = {f"{chip.sae}/{chip.number}": chip.name for chip in form.chips if chip.name}
        response = render(request, "steer/_result.html", headers={"HX-Push-Url": place},
                          **run_context(run_view(row, live), names))
    else:
        response = RedirectResponse(place, 303)
    STEERED.remember(request, response, row.id)
    return response


def _read_and_check(
    data: ImmutableMultiDict[str, Any], sources: Sources, complete: bool = False
) -> tuple[Form, SteerRequest | None]:
    form = read_form(data)
    typed = 0 if complete else len(form.chips)
    _add(form, sources)
    if form.found is not None:
        form.errors["add"] = "Choose one of the latents found, or empty this field"
    sources.look_up(form)
    for chip in form.chips[typed:]:
        chip.usual()
    return form, check(form)


def _read_sweep(form: Form, steer: SteerRequest | None, sources: Sources) -> SweepRequest | None:
    if steer is None:
        return None
    place = swept_place(form)
    return check_sweep(form, steer, sources.concept(form.chips[place]) if place is not None else ())


def _show_faults(request: Request, form: Form, sources: Sources, status: int) -> Response:
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else {}
    if wants_json(request):
        errors = dict(form.errors)
        for i, chip in enumerate(form.chips):
            errors |= {f"{name}-{i}": message for name, message in chip.errors.items()}
        first = next(iter(errors))
        return JSONResponse(
            {"error": f"{first}: {errors[first]}", "status": status, "field": first, "errors": errors}, status, headers)
    if is_htmx(request):
        headers |= {"HX-Retarget": "#steer-form", "HX-Reswap": "outerHTML"}
        return render(request, "steer/_form.html", status, headers, **form_page(request, form, sources))
    return render(request, "steer/page.html", status, headers, **form_page(request, form, sources))


def _store(
    db: SessionDep, runs: SteeringDep, form: Form, steer: SteerRequest, sweep: SweepRequest | None,
) -> SteerRun:
    facts = {chip.facts.id: chip.facts for chip in form.chips if chip.facts}
    first = facts[steer.interventions[0].sae]
    asked: dict[str, Any] = {
        "steer": steer.model_dump(mode="json"), "saes": {k: asdict(v) for k, v in facts.items()}}
    if sweep is not None:
        asked["sweep"] = sweep.model_dump(mode="json", exclude={"request"})
    row = SteerRun(id=new_id("steer"), sae_id=first.id, build_id=first.build, state="queued", request=asked)
    db.add(row)
    runs.announce(db, row.id)
    db.commit()
    return row

