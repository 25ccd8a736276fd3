"""Steering: the form, and runs as resources that stream, replay and can be forked.

`POST /steer` makes a run; `/steer/{id}` shows it, for ever the same once it is finished;
`/steer/{id}/events` streams it as server-sent events of full rendered text, which may be lost or
repeated without harm and always end with `done`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import ImmutableMultiDict

from app.deps import BuildsDep, CatalogDep, SessionDep, SteeringDep, WorkspaceDep
from app.errors import wants_json
from app.models import SteerRun
from app.steer_form import POSITIONS, Chip, Form, check, default_values, form_of, new_seed, read_form
from app.steer_sources import Sources
from app.steer_view import RunView, run_json, run_view, stored_request
from app.steering import LiveRun
from app.templating import is_htmx, render, render_to_string
from app.worker.protocol import Generate
from sae.steering_spec import MAX_LATENTS, MAX_LENGTH, MODES, SteerRequest
from sae.workspace import Workspace, new_id

router = APIRouter(include_in_schema=False)

_RETRY_AFTER_S = 5
_BUSY = "The model worker has all the runs it can hold. Nothing was lost: try again in a few seconds."


def get_sources(catalog: CatalogDep, builds: BuildsDep) -> Sources:
    return Sources(catalog, builds)


SourcesDep = Annotated[Sources, Depends(get_sources)]


@dataclass(frozen=True)
class Found:
    """A run's row, and the run itself while it goes."""

    row: SteerRun
    live: LiveRun | None

    @property
    def view(self) -> RunView:
        return run_view(self.row, self.live)


def find(db: SessionDep, runs: SteeringDep, run_id: str) -> Found:
    """The run.  Raises 404."""
    # In this order: a run that is no longer going has its end in the database already.
    live = runs.get(run_id)
    row = db.get(SteerRun, run_id)
    if row is None:
        raise HTTPException(404, f"There is no steering run {run_id}.")
    return Found(row, live)


FoundDep = Annotated[Found, Depends(find)]


# ---- the form


@router.get("/steer")
def show_form(
    request: Request, sources: SourcesDep, db: SessionDep, runs: SteeringDep, fork: str | None = None
) -> Response:
    """The form: from the address, from a run (`?fork=<id>`), or an example.  htmx gets the form alone."""
    query = request.query_params
    form = form_of(*stored_request(find(db, runs, fork).row)) if fork else _form_from(query, sources)
    if fork:
        sources.look_up(form)
    return _show_form(request, form, sources)


@router.post("/steer/form")
async def change_form(request: Request, sources: SourcesDep) -> Response:
    """The form with a latent added or removed or a new seed.  By POST, as a prompt may be too long for an address."""
    data = await request.form()
    form = await run_in_threadpool(_form_from, data, sources)
    return await run_in_threadpool(_show_form, request, form, sources)


@router.get("/steer.json")
def form_json(request: Request, sources: SourcesDep) -> dict[str, Any]:
    """What `POST /steer` takes, filled in as the page would be."""
    form = _form_from(request.query_params, sources)
    return {
        "prompt": form.prompt, **form.values, "special": form.special,
        "latents": [{"sae": c.sae, "latent": c.number, "mode": c.mode, "strength": c.value, "max_act": c.max_act,
                     "norm_ratio": c.ratio} for c in form.chips],
        "choices": {"mode": MODES, "positions": POSITIONS}, "limits": {"latents": MAX_LATENTS, "length": MAX_LENGTH}}


def _form_from(query: ImmutableMultiDict[str, Any], sources: Sources) -> Form:
    form = read_form(query)
    if query.get("add"):
        _add(form, query)
    drop = query.get("drop", "")
    if drop.isascii() and drop.isdigit() and int(drop) < len(form.chips):
        del form.chips[int(drop)]
    if query.get("new_seed"):
        form.values["seed"] = new_seed()
    if form.chips or "drop" in query or form.prompt:
        sources.complete(form)
        return form
    example = sources.example(query.get("sae"))
    example.values = form.values
    return example


def _add(form: Form, data: ImmutableMultiDict[str, Any]) -> None:
    sae = str(data.get("add_sae") or (form.chips[0].sae if form.chips else ""))
    form.chips.append(Chip(sae=sae, latent=str(data["add"])))


def _show_form(request: Request, form: Form, sources: Sources) -> Response:
    name = "steer/_form.html" if is_htmx(request) else "steer/page.html"
    return render(request, name, **_page(form, sources), run=None)


def _page(form: Form, sources: Sources) -> dict[str, Any]:
    saes = sources.steerable()
    current = next((sae for chip in form.chips for sae in saes if sae.id == chip.sae), saes[0] if saes else None)
    return {
        "form": form, "saes": saes, "current_sae": current, "modes": MODES, "positions": POSITIONS,
        "section": "steer", "json_url": "/steer.json", "defaults": default_values()}


# ---- runs


@router.post("/steer")
async def create(
    request: Request, sources: SourcesDep, db: SessionDep, runs: SteeringDep, workspace: WorkspaceDep
) -> Response:
    """Check the form, store the run and begin it.  Faults come back at their fields, with all that was typed."""
    data = await request.form()
    form, steer = await run_in_threadpool(_read_and_check, data, sources)
    if steer is None:
        return await run_in_threadpool(_show_faults, request, form, sources, 422)
    if data.get("replaces"):  # the run that this page showed until now need not wait for its grace
        runs.stop(str(data["replaces"]))
    if runs.full:
        form.errors["form"] = _BUSY
        return await run_in_threadpool(_show_faults, request, form, sources, 503)
    row = await run_in_threadpool(_store, db, form, steer)
    live = runs.start(row.id, _message(steer, workspace))
    headers = {"Location": f"/steer/{row.id}"}
    if wants_json(request):
        return JSONResponse({"id": row.id, "url": f"/steer/{row.id}"}, 201, headers)
    if is_htmx(request):
        return render(request, "steer/_result.html", headers={"HX-Push-Url": f"/steer/{row.id}"},
                      run=run_view(row, live))
    return RedirectResponse(f"/steer/{row.id}", 303)


def _read_and_check(data: ImmutableMultiDict[str, Any], sources: Sources) -> tuple[Form, SteerRequest | None]:
    form = read_form(data)
    if data.get("add"):
        _add(form, data)
        form.chips[-1].strength = "1"
    sources.look_up(form)
    return form, check(form)


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
        return render(request, "steer/_form.html", status, headers, **_page(form, sources))
    return render(request, "steer/page.html", status, headers, **_page(form, sources), run=None)


def _store(db: SessionDep, form: Form, steer: SteerRequest) -> SteerRun:
    facts = {chip.facts.id: chip.facts for chip in form.chips if chip.facts}
    first = facts[steer.interventions[0].sae]
    row = SteerRun(
        id=new_id("steer"), sae_id=first.id, build_id=first.build, state="queued",
        request={"steer": steer.model_dump(mode="json"), "saes": {k: asdict(v) for k, v in facts.items()}})
    db.add(row)
    db.commit()
    return row


def _message(steer: SteerRequest, workspace: Workspace) -> Generate:
    return Generate(request=steer, folders={i.sae: str(workspace.sae(i.sae)) for i in steer.interventions})


@router.get("/steer/{run_id}.json")
def show_json(found: FoundDep) -> dict[str, Any]:
    return run_json(found.row, found.live)


@router.get("/steer/{run_id}")
def show(request: Request, found: FoundDep, sources: SourcesDep) -> Response:
    """The run, and the form filled with its request, ready to be changed and run again."""
    run = found.view
    form = form_of(run.request, run.facts)
    sources.name(form)
    context = _page(form, sources) | {"json_url": f"/steer/{run.id}.json"}
    return render(request, "steer/page.html", **context, run=run)


@router.post("/steer/{run_id}/stop")
async def stop(request: Request, found: FoundDep, runs: SteeringDep) -> Response:
    """Stop within a token.  A run that is finished is left as it is."""
    runs.stop(found.row.id)
    return Response(status_code=204) if is_htmx(request) else RedirectResponse(f"/steer/{found.row.id}", 303)


@router.get("/steer/{run_id}/events", response_class=EventSourceResponse)
async def events(found: FoundDep) -> AsyncIterator[ServerSentEvent]:
    """`baseline`, `steered` and `status`, each the whole of it as HTML, whenever it changed; `done` at the end."""
    if found.live is None:
        for event in _events(found.view):
            yield event
    else:
        async for _ in found.live.watch():
            for event in _events(found.view):
                yield event
    yield ServerSentEvent(raw_data="done", event="done")


def _events(run: RunView) -> list[ServerSentEvent]:
    sent = [ServerSentEvent(event=column.name, id=f"{run.written}",
                            raw_data=render_to_string("steer/_text.html", column=column)) for column in run.columns]
    return [*sent, ServerSentEvent(event="status", raw_data=render_to_string("steer/_status.html", run=run))]
