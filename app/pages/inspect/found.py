"""The search of a phrase: one ranked list of the latents that fit it and of those that are active on it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.pages.dependencies import ToolsDep, UserDep
from app.pages.explore.search import found_context, found_json
from app.pages.find.active import PATIENCE_OF_PROGRAMS_S
from app.pages.find.latents import find_scope
from app.pages.find.phrase import read_phrase
from app.web.errors import wants_json
from app.web.templating import is_htmx, render

router = APIRouter(include_in_schema=False)


@router.get("/search/found.json")
@router.get("/search/found")
async def show_found(request: Request, tools: ToolsDep, user: UserDep, q: str = "", sae: str = "") -> Response:
    """List the latents that fit a text or are active on it; htmx gets the list alone."""
    text, scope = q.strip()[:200], await run_in_threadpool(find_scope, tools.catalog, sae)
    if wants_json(request):
        read = await read_phrase(tools, scope, text, PATIENCE_OF_PROGRAMS_S)
        return await run_in_threadpool(found_json, tools.db, tools.builds, scope, text, read)
    read = await read_phrase(tools, scope, text)

    def made() -> Response:
        context = found_context(tools.db, tools.builds, user, scope, text, read)
        name = "explore/_found.html" if is_htmx(request) else "explore/search.html"
        return render(request, name, json_url=f"/search/found.json?{request.url.query}", **context)

    return await run_in_threadpool(made)
