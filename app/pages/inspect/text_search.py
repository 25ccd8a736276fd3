"""The page of the latents that are active on a text, over all SAEs of a model (`app.pages.find.active`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.db.tables import Label
from app.library import labels
from app.library.latent_names import names_of
from app.pages.dependencies import Tools, ToolsDep
from app.pages.explore.latent_views import snippet
from app.pages.find.active import (
    LISTED,
    PATIENCE_OF_PROGRAMS_S,
    ActiveLatent,
    TextSearch,
    ask,
    check_text,
    chosen_saes,
    piece,
    ranked_latents,
)
from app.pages.inspect.view import MEASURES
from app.render.token_text import Row
from app.web.errors import wants_json
from app.web.parameters import whole_number
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, CachedRequest, fault_answer
from app.worker.protocol import Inspected, InspectedText
from sae.errors import UserError

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class ActiveRow:
    """An active latent as the page shows it."""

    found: ActiveLatent
    name: str  # its label, best explanation or good rule, or ""
    snippet: Row | None


async def search(tools: Tools, asked: TextSearch) -> tuple[InspectedText, list[ActiveLatent]]:
    """Return the text's tokens and the latents that are active on it, best first, for programs."""
    await run_in_threadpool(check_text, asked)
    cached = await ask(tools, asked, PATIENCE_OF_PROGRAMS_S)
    if not isinstance(cached.last, Inspected):
        words, status, headers = fault_answer(cached)
        raise HTTPException(status, words, headers)
    text = cached.last.texts[0]
    return text, await run_in_threadpool(ranked_latents, tools, asked, text)


def search_json(asked: TextSearch, text: InspectedText, found: Sequence[ActiveLatent], texts: dict[Any, str]) -> Any:
    """Return the JSON of a search; `texts` are labels by SAE and latent."""
    return {
        "text": asked.text, "saes": [sae.id for sae in asked.saes], "rank": asked.rank,
        "tokens": [piece(text, place) for place in range(len(text.ids))],
        "latents": [vars(one) | {"label": texts.get((one.sae, one.latent), "")} for one in found]}


def label_texts(tools: Tools, found: Sequence[ActiveLatent]) -> dict[tuple[str, int], str]:
    """Return the label texts of these latents."""
    return {place: label.text for place, label in _labels(tools, found).items()}


@router.get("/search/text.json")
@router.get("/search/text")
async def show_text_search(
    request: Request, tools: ToolsDep, q: str = "", model: str = "", sae: str = "", rank: str = "max", dense: str = "",
    first: str = "",
) -> Response:
    """List the latents that are active on the text `q`; htmx asks for the list alone, or for the `first` of it.

    With `sae` that SAE reads the text, with `model` all SAEs of the model.
    """
    saes = await run_in_threadpool(chosen_saes, tools, model, sae)
    asked = TextSearch(q.replace("\r\n", "\n"), saes, rank if rank in MEASURES else "max", dense == "1",
                       min(whole_number(first) or LISTED, LISTED))
    if wants_json(request):
        text, found = await search(tools, asked)
        return await run_in_threadpool(
            lambda: JSONResponse(search_json(asked, text, found, label_texts(tools, found))))
    error = ""
    try:
        await run_in_threadpool(check_text, asked)
    except UserError as fault:
        error = str(fault).removeprefix("text: ")
    cached = None if error else await ask(tools, asked, PATIENCE_S)
    return await run_in_threadpool(_page, request, tools, asked, sae, cached, error)


def _page(
    request: Request, tools: Tools, asked: TextSearch, sae_id: str, cached: CachedRequest | None, error: str,
) -> Response:
    current = asked.saes[0] if sae_id else None
    scope = {"sae": sae_id} if sae_id else {"model": asked.saes[0].model}

    def link(suffix: str = "", **changes: str) -> str:
        pairs = {"q": asked.text, **scope, "rank": asked.rank, "dense": "1" if asked.dense else "",
                 "first": str(asked.top) if asked.top < LISTED else ""} | changes
        return f"/search/text{suffix}?{urlencode({name: value for name, value in pairs.items() if value})}"

    context: dict[str, Any] = {
        "asked": asked, "shortened": asked.top < LISTED, "link": link, "measures": MEASURES,
        "rows": [], "waiting": "", "fault": "", "n_tokens": 0,
        "model": asked.saes[0].model, "first": asked.saes[0], "current": current}
    status, headers = (422 if error and asked.text else 200), dict[str, str]()
    if cached is not None and cached.last is None:
        context["waiting"] = cached.note
    elif cached is not None and isinstance(cached.last, Inspected):
        text = cached.last.texts[0]
        context |= {"rows": _rows(tools, ranked_latents(tools, asked, text)), "n_tokens": text.special.count(False)}
    elif cached is not None:
        context["fault"], status, headers = fault_answer(cached)
    if is_htmx(request):
        return render(request, "inspect/_text_found.html", 200, headers, **context)
    return render(request, "inspect/text_search.html", status, headers, **context, error=error, current_sae=current,
                  search_text=asked.text, json_url=link(".json"))


def _rows(tools: Tools, found: Sequence[ActiveLatent]) -> list[ActiveRow]:
    names, contexts = dict[tuple[str, int], str](), dict[tuple[str, int], Row | None]()
    for sae_id in {one.sae for one in found}:
        sae = tools.catalog.get_sae(sae_id)
        if sae is None or sae.current_build is None:
            continue
        with tools.builds.use(sae_id, sae.current_build) as build:
            mine = {one.latent: one.max_act for one in found if one.sae == sae_id}
            names |= {(sae_id, latent): name for latent, name in names_of(tools.db, build, sae_id, mine).items()}
            for latent, context in build.snippets(mine).items():
                contexts[sae_id, latent] = snippet(context, build.vocabulary, mine[latent])
    return [ActiveRow(one, names.get((one.sae, one.latent), ""), contexts.get((one.sae, one.latent))) for one in found]


def _labels(tools: Tools, found: Sequence[ActiveLatent]) -> dict[tuple[str, int], Label]:
    by_sae: dict[str, list[int]] = {}
    for one in found:
        by_sae.setdefault(one.sae, []).append(one.latent)
    return labels.of_saes(tools.db, by_sae)
