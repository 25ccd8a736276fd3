"""The map with the latents ringed that are active on a phrase, for which it needs the model worker."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.pages.dependencies import ToolsDep
from app.pages.explore.map import map_page, scope_of
from app.pages.find.phrase import read_phrase
from app.pages.sae_page import find_sae

router = APIRouter(include_in_schema=False)


@router.get("/{model}/{name}/map/found")
async def show_found_on_map(
    request: Request, model: str, name: str, tools: ToolsDep, colour: str = "", q: str = "", cluster: str = "",
) -> Response:
    """Show the map as `show_map` does, and ring the latents, too, that are active on the text `q`."""
    scope, text = scope_of(await run_in_threadpool(find_sae, tools.catalog, model, name)), q.strip()[:200]
    said = await read_phrase(tools, scope, text)
    return await run_in_threadpool(map_page, request, tools.db, tools.builds, scope, colour, text, cluster, said)
