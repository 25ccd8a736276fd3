"""Steering runs as resources: shown, streamed, stopped, read out.

`/steer/{id}` shows a run, and never changes once the run is finished.  `/steer/{id}/events` streams it as server-sent
events of full rendered text.  They may be lost or repeated without harm, and the last one is always `done`.
`/steer/{id}/next/…` asks the model worker about one token of a finished text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from app.pages.dependencies import CachedRequestsDep, RequestSessionsDep, SessionDep, SteeringDep, WorkspaceDep
from app.pages.steer.form import form_of
from app.pages.steer.form_page import SourcesDep, form_page
from app.pages.steer.next_token_view import next_tables, readout_request, title_of
from app.pages.steer.result import Found, find, run_context
from app.pages.steer.run_view import RunView, run_json, whole_text
from app.pages.steer.shared_events import shared_events
from app.pages.steer.sweep_strengths import strengths_text
from app.web.errors import wants_json
from app.web.event_streams import event_stream
from app.web.parameters import PathNumber, QueryNumber, whole_number
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, CachedRequest, fault_answer
from app.worker.protocol import ReadOut, Readout
from app.worker.steering_runs import LiveRun
from sae.lm.model_info import find_model
from sae.steering.python_program import SnippetSae
from sae.steering.python_program import render as render_program

router = APIRouter(include_in_schema=False)

_names: WeakKeyDictionary[LiveRun, dict[str, str]] = WeakKeyDictionary()
_APART_S = 0.002  # seconds between the changes that a page is sent, for each page that follows the run



def get_found(db: SessionDep, runs: SteeringDep, run_id: str) -> Found:
    return find(db, runs, run_id)


FoundDep = Annotated[Found, Depends(get_found)]


def get_names(found: FoundDep, sources: SourcesDep) -> dict[str, str]:
    """Return the names of the run's latents, as `Sources.names` does, once for all pages that follow an active run."""
    names = _names.get(found.live) if found.live else None
    if names is None:
        names = sources.names((i.sae, i.latent) for i in found.view().request.interventions)
        if found.live:
            _names[found.live] = names
    return names


NamesDep = Annotated[dict[str, str], Depends(get_names)]


async def get_followed(db: SessionDep, sessions: RequestSessionsDep, found: FoundDep, names: NamesDep) -> Found:
    """Give the connection to the database back, which nobody who only waits may hold, and return the run.

    The names are found before that.
    """
    await sessions.leave(db)
    return found


FollowedDep = Annotated[Found, Depends(get_followed)]


@router.get("/steer/{run_id}.json")
def show_json(found: FoundDep) -> dict[str, Any]:
    return run_json(found.row, found.live)


@router.get("/steer/{run_id}.py")
def show_python(found: FoundDep, sources: SourcesDep, workspace: WorkspaceDep) -> Response:
    """Return the run's steered column as a stand-alone program with plain transformer_lens."""
    run = found.view()
    saes = {}
    for i in run.request.interventions:
        sae = sources.sae(i.sae)
        if sae is None:
            raise HTTPException(404, f"{i.sae}, with which this run was steered, is no longer here.")
        saes[sae.id] = SnippetSae(
            str(workspace.sae(sae.id)), sae.architecture, str(sae.config["normalize"]),
            sae.config["site"].get("out_hook"), sae.hook, bool(sae.config.get("markup")))
    text = render_program(run.request, saes, find_model(run.request.model).source, f"Steering run {run.id}")
    if text is None:
        raise HTTPException(404, "There is no program for this SAE, as its rules take more than a few lines.")
    return Response(text, media_type="text/x-python; charset=utf-8",
                    headers={"Content-Disposition": f'inline; filename="{run.id}.py"'})


@router.get("/steer/{run_id}")
def show(
    request: Request, found: FoundDep, sources: SourcesDep, names: NamesDep, by: QueryNumber | None = None,
) -> Response:
    """Show the run, and the form filled with its request."""
    run = found.view(by)
    gone = sources.gone(i.sae for i in run.request.interventions)
    if is_htmx(request):
        return render(request, "steer/_result.html", **run_context(run, names, gone))
    form = form_of(run.request, run.facts)
    if run.sweep:
        form.values["sweep"] = strengths_text(run.sweep.strengths)
        form.values["sweep_of"] = str(run.sweep.place)
    sources.name(form)
    context = form_page(request, form, sources) | {"json_url": f"/steer/{run.id}.json"}
    return render(request, "steer/page.html", **context | run_context(run, names, gone))


@router.post("/steer/{run_id}/stop")
async def stop(request: Request, found: FoundDep, runs: SteeringDep) -> Response:
    """Stop the run within a token.  A finished run stays as it is."""
    await runs.stop_anywhere(found.row.id)
    return Response(status_code=204) if is_htmx(request) else RedirectResponse(f"/steer/{found.row.id}", 303)


@router.get("/steer/{run_id}/events")
async def events(found: FollowedDep, names: NamesDep, by: QueryNumber | None = None) -> Response:
    """Stream every part of the result that changes, always the whole part as HTML, and `done` at the end."""
    return event_stream(_changes(found, names, by))


async def _changes(found: Found, names: dict[str, str], by: int | None) -> AsyncGenerator[bytes]:
    """Yield the events of a run.

    Changes during rendering are sent together, so that rendering many long texts again and again takes at most a third
    of the time.  They are also sent less often the more pages follow the run.
    """
    sent: dict[str, str] = {}
    async with aclosing(states(found)) as all_states:
        async for _ in all_states:
            began = time.monotonic()
            run, parts = await shared_events(found, by, names)
            changed = [(name, html, event) for name, html, event in parts if sent.get(name) != html]
            if changed:
                sent |= {name: html for name, html, _ in changed}
                yield b"".join(event for _, _, event in changed)
            if not run.final:
                viewers = found.live.viewers if found.live else 1
                await asyncio.sleep(max(2 * (time.monotonic() - began), _APART_S * viewers))
    yield format_sse_event(event="done", data_str="done")


async def states(found: Found) -> AsyncGenerator[None]:
    """Yield once for every state of the run that is to be shown."""
    if found.live is None:
        yield
        return
    async with aclosing(found.live.watch()) as watched:
        async for _ in watched:
            yield


@router.get("/steer/{run_id}/next/{key}/{position}")
@router.get("/steer/{run_id}/next/{key}/{position}.json")  # applied first, so it is matched first
async def next_tokens(
    request: Request, found: FoundDep, cached_requests: CachedRequestsDep, workspace: WorkspaceDep, key: str,
    position: PathNumber,
) -> Response:
    """Show the probabilities at a token's position and after it: unsteered, steered, and the difference."""
    run = found.view()
    texts = whole_text(found.row, key)
    if texts is None or not 1 <= position < len(texts[0].ids) + len(texts[1].ids):
        raise HTTPException(404, f"Run {run.id} has no finished text {key} with a position {position}.")
    cell = whole_number(key)
    steer = run.sweep.cells()[cell] if run.sweep and cell is not None else run.request
    asked = readout_request(steer, *texts, position)
    folders = {i.sae: str(workspace.sae(i.sae)) for i in steer.interventions}
    patience_s = 60.0 if wants_json(request) else PATIENCE_S
    cached = await cached_requests.ask((run.id, key, position), Readout(request=asked, folders=folders), patience_s)
    return await run_in_threadpool(_show_next, request, run, key, position, cached)


def _show_next(request: Request, run: RunView, key: str, position: int, cached: CachedRequest) -> Response:
    words, status, headers = fault_answer(cached) if cached.fault else ("", 200, {})
    if wants_json(request):
        if not isinstance(cached.last, ReadOut):
            return JSONResponse({"error": words or cached.note, "status": status}, status if words else 202, headers)
        return JSONResponse(cached.last.model_dump(exclude={"type"}))
    context = {
        "run": run, "key": key, "position": position, "title": title_of(key), "fault": words,
        "waiting": "" if cached.last else cached.note,
        "tables": next_tables(cached.last) if isinstance(cached.last, ReadOut) else []}
    if is_htmx(request):
        return render(request, "steer/_next.html", 200, headers, **context)
    return render(request, "steer/next.html", status, headers, section="steer", **context)
