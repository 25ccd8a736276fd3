"""The search of a phrase: one ranked list of the latents that fit it and of those that are active on it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.library.latent_search import Hit, active_on
from app.pages.dependencies import Tools, ToolsDep, UserDep
from app.pages.explore.search import Read, Scope, find_scope, found_context, found_json
from app.pages.inspect.text_search import (
    PATIENCE_OF_PROGRAMS_S,
    ActiveLatent,
    TextSearch,
    ask,
    check_text,
    chosen_saes,
    ranked_latents,
)
from app.render.numbers import percent
from app.render.token_text import visible
from app.web.errors import wants_json
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, fault_answer
from app.worker.protocol import Inspected
from sae.errors import UserError

router = APIRouter(include_in_schema=False)

RANKED = 400  # active latents that the list is made from: more than it shows, for one may fit in other ways, too


@router.get("/search/found.json")
@router.get("/search/found")
async def show_found(request: Request, tools: ToolsDep, user: UserDep, q: str = "", sae: str = "") -> Response:
    """List the latents that fit a text or are active on it; htmx gets the list alone."""
    text, scope = q.strip()[:200], await run_in_threadpool(find_scope, tools.catalog, sae)
    if wants_json(request):
        read = await read_phrase(tools, scope, text, PATIENCE_OF_PROGRAMS_S)
        return await run_in_threadpool(found_json, tools.db, tools.builds, scope, text, read)
    read = await read_phrase(tools, scope, text, PATIENCE_S)

    def made() -> Response:
        context = found_context(tools.db, tools.builds, user, scope, text, read)
        name = "explore/_found.html" if is_htmx(request) else "explore/search.html"
        return render(request, name, json_url=f"/search/found.json?{request.url.query}", **context)

    return await run_in_threadpool(made)


async def read_phrase(tools: Tools, scope: Scope, text: str, patience_s: float) -> Read:
    """Let the model read a text with the SAEs of the scope that can."""
    if scope.reader is None or not text:
        return Read({})
    try:
        saes = await run_in_threadpool(
            chosen_saes, tools, scope.reader.model, scope.current.id if scope.current else "")
        asked = TextSearch(text, saes, top=RANKED)
        await run_in_threadpool(check_text, tools, asked)
    except UserError as error:
        return Read({}, fault=str(error).partition(": ")[2])
    cached = await ask(tools, asked, patience_s)
    if cached.last is None:
        return Read({}, waiting=cached.note)
    if not isinstance(cached.last, Inspected):
        return Read({}, fault=fault_answer(cached)[0])
    active: dict[str, list[Hit]] = {}
    n_tokens = cached.last.texts[0].special.count(False)
    for one in await run_in_threadpool(ranked_latents, tools, asked, cached.last.texts[0]):
        active.setdefault(one.sae, []).append(_hit(one, n_tokens))
    return Read(active)


def _hit(one: ActiveLatent, n_tokens: int) -> Hit:
    often = f"on {one.n} of {n_tokens} tokens"
    value = f"{percent(one.score)} of its maximum, {often}" if one.max_act else often
    return active_on(one.latent, one.score if one.max_act else 0.5, visible(one.token), value)
