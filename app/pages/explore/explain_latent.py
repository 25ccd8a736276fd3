"""One latent explained by the endpoint while its page is open: the answer is shown as it comes.

Only administrators may ask, as each answer may cost money.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from markupsafe import escape
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State

from app.db.tables import Sae, User
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.live_explanations import LiveExplanation, LiveExplanations
from app.pages.dependencies import AdminDep
from app.pages.explore.explanation_views import explanations_of
from app.pages.sae_page import find_sae, latent_number, open_build
from app.render.token_text import visible
from app.web.errors import wants_json
from app.web.templating import is_htmx, render, render_to_string
from sae.errors import UserError
from sae.explain.endpoint_settings import find_endpoint
from sae.explain.evidence import evidence_of
from sae.explain.explainers import explain_messages
from sae.explain.templates import load_templates

router = APIRouter(include_in_schema=False)

_PATIENCE_S = 120.0  # a browser without JavaScript waits for the whole answer


@router.post("/{model}/{name}/{number}/explanations/ask")
async def ask(request: Request, model: str, name: str, number: str, admin: AdminDep) -> Response:
    """Ask the endpoint to explain the latent.

    htmx gets a part that shows the answer as it comes, and a browser without it the latent's page when it is complete.
    """
    if is_htmx(request):
        state = request.app.state
        sae = await run_in_threadpool(find_sae, state.catalog, model, name)
        one = await run_in_threadpool(_start, state.live_explanations, state.builds, sae, number)
        return render(request, "explore/_explaining.html", sae=sae, number=one.latent, live=one)
    one = await ask_and_wait(request.app.state, model, name, number)
    if wants_json(request):
        return Response(status_code=201, headers={"Location": f"/{one.sae_id}/{one.latent}.json"})
    return RedirectResponse(f"/{one.sae_id}/{one.latent}#explanations", 303)


async def ask_and_wait(state: State, model: str, name: str, number: str) -> LiveExplanation:
    """Ask the endpoint, and return when its answer is complete and stored.  Raises 502 if it failed or takes too long.
    """
    sae = await run_in_threadpool(find_sae, state.catalog, model, name)
    one = await run_in_threadpool(_start, state.live_explanations, state.builds, sae, number)
    await run_in_threadpool(one.done.wait, _PATIENCE_S)
    await run_in_threadpool(state.catalog.sync_if_changed)
    if one.error or not one.done.is_set():
        raise HTTPException(502, one.error or "The endpoint has not answered yet; reload the latent's page later.")
    return one


def _start(live: LiveExplanations, builds: Builds, sae: Sae, number: str) -> LiveExplanation:
    latent = latent_number(sae, number)
    endpoint = find_endpoint()
    template = load_templates()["explain"]
    with open_build(builds, sae) as build:
        found = build.latent(latent)
        evidence = evidence_of(build, found) if found is not None else None
    if evidence is None or not (evidence.top or evidence.bands):
        raise UserError(f"latent: {latent} fires in no document of the half for explaining", "latent")
    return live.start(sae.id, latent, explain_messages(template, evidence), template.version, endpoint)


async def find_live(request: Request, model: str, name: str, number: str, asked: str) -> LiveExplanation:
    """Return the explanation that is being written.  Raises 404 if there is none of this id for this latent."""
    one: LiveExplanation | None = request.app.state.live_explanations.get(asked)
    if one is None or (one.sae_id, str(one.latent)) != (f"{model}/{name}", number):
        raise HTTPException(404, f"Nothing is being written under {asked[:60]} here.")
    return one


@router.get("/{model}/{name}/{number}/explanations/ask/{asked}/events", response_class=EventSourceResponse)
async def events(
    request: Request, admin: AdminDep, one: Annotated[LiveExplanation, Depends(find_live)],
) -> AsyncIterator[ServerSentEvent]:
    """Stream the answer as HTML (`text`), then the card of the latent's explanations (`card`), then `done`."""
    async for text in one.watch():
        yield ServerSentEvent(event="text", raw_data=str(escape(visible(text.replace("\n", " ")))) or " ")
    yield ServerSentEvent(event="card", raw_data=await run_in_threadpool(_card, request, one, admin))
    yield ServerSentEvent(raw_data="done", event="done")


def _card(request: Request, one: LiveExplanation, user: User) -> str:
    catalog: Catalog = request.app.state.catalog
    catalog.sync_if_changed()
    sae = find_sae(catalog, *one.sae_id.split("/"))
    with request.app.state.sessions() as db:
        explained = explanations_of(db, sae, one.latent, user)
    return render_to_string("explore/_explanations.html", sae=sae, number=one.latent, explained=explained, user=user,
                            may_write=True, failed=one.error)
