"""Latents that are active on a text, over all SAEs of a model: one forward pass, one ranked list.

SAEs of different layers and normalisations have activations on different scales.  So `max` and `sum` are in units of
each latent's own maximum in the text of its index.  Surprise is a number of bits and needs no unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.db.tables import Label, Sae
from app.library import labels
from app.library.latent_names import names_of
from app.pages.dependencies import Tools, ToolsDep
from app.pages.explore.latent_views import snippet
from app.pages.inspect.form import InspectForm, check
from app.pages.inspect.view import MEASURES, surprise
from app.pages.sae_choice import computable_saes
from app.render.token_text import Row
from app.web.errors import wants_json
from app.web.parameters import whole_number
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, CachedRequest, fault_answer
from app.worker.protocol import Inspect, Inspected, InspectedText, TextLatents
from sae.errors import UserError
from sae.steering.measurement_requests import MAX_SAES, InspectRequest
from sae.store.build import Build
from sae.store.records import DENSE_DENSITY

router = APIRouter(include_in_schema=False)

LISTED = 50
PATIENCE_OF_PROGRAMS_S = 60.0


@dataclass(frozen=True)
class TextSearch:
    """A text, the SAEs that read it (all of one model), and the ranking of the latents."""

    text: str
    saes: tuple[Sae, ...]
    rank: str = "max"
    dense: bool = False
    top: int = LISTED


@dataclass(frozen=True)
class ActiveLatent:
    """A latent that is active on the text: its score, and in activation units its maximum at `peak` and its sum."""

    sae: str
    latent: int
    score: float
    max: float
    sum: float
    n: int
    peak: int
    token: str
    surprise: float
    density: float
    max_act: float


@dataclass(frozen=True)
class ActiveRow:
    """An active latent as the page shows it."""

    found: ActiveLatent
    name: str  # its label, best explanation or good rule, or ""
    snippet: Row | None


def chosen_saes(tools: Tools, model: str, sae_id: str) -> tuple[Sae, ...]:
    """Return the SAE with this id, or the SAEs of this model, or those of the model with the best SAE.

    SAEs without weights or index are left out.  Raises UserError (field `sae` or `model`) if none remains.
    """
    every, sae_id = computable_saes(tools.catalog), tools.catalog.present_id(sae_id)
    if sae_id:
        found = [sae for sae in every if sae.id == sae_id]
        said = f"sae: there is no SAE {sae_id} here that can read a text"
    else:
        name = model or next((sae.model for sae in every), "")
        found = [sae for sae in every if sae.model == name and not sae.hidden]
        said = f"model: there is no SAE{f' of {name}' if name else ''} here that can read a text"
    if not found:
        raise UserError(said, "sae" if sae_id else "model")
    return tuple(found[:MAX_SAES])


def check_text(tools: Tools, asked: TextSearch) -> None:
    """Raise UserError (field `text`) for an empty or too long text."""
    form = InspectForm(text=asked.text, sae=asked.saes[0].id)
    if check(form, tools.catalog) is None:
        field, said = next(iter(form.errors.items()))
        raise UserError(f"{field}: {said}", field)


async def ask(tools: Tools, asked: TextSearch, patience_s: float) -> CachedRequest:
    """Let the model worker read the text with all SAEs.  Other rankings of the same text use the same answer."""
    ids = tuple(sae.id for sae in asked.saes)
    request = InspectRequest(
        model=str(asked.saes[0].config["model"]["name"]), saes=ids, texts=(asked.text,), top=1)
    message = Inspect(request=request, folders={one: str(tools.workspace.sae(one)) for one in ids})
    key = ("search", asked.text, *((sae.id, sae.current_build, sae.created) for sae in asked.saes))
    return await tools.cached_requests.ask(key, message, patience_s)


async def search(tools: Tools, asked: TextSearch) -> tuple[InspectedText, list[ActiveLatent]]:
    """Return the text's tokens and the latents that are active on it, best first, for programs."""
    await run_in_threadpool(check_text, tools, asked)
    cached = await ask(tools, asked, PATIENCE_OF_PROGRAMS_S)
    if not isinstance(cached.last, Inspected):
        words, status, headers = fault_answer(cached)
        raise HTTPException(status, words, headers)
    text = cached.last.texts[0]
    return text, await run_in_threadpool(ranked_latents, tools, asked, text)


def ranked_latents(tools: Tools, asked: TextSearch, text: InspectedText) -> list[ActiveLatent]:
    """Return the latents of all SAEs in one list, best first.  Always-on latents are left out unless asked for."""
    found: list[ActiveLatent] = []
    for sae, read in zip(asked.saes, text.saes, strict=True):
        with tools.builds.use(sae.id, sae.current_build or "") as build:
            found += _of_sae(asked, text, read, build)
    return nsmallest(asked.top, found, key=lambda one: (-one.score, one.sae, one.latent))


def _of_sae(asked: TextSearch, text: InspectedText, read: TextLatents, build: Build) -> list[ActiveLatent]:
    total, least = text.special.count(False), 0.5 / max(float(build.meta["tokens"]), 1.0)
    rates = build.firing_rates
    out = []
    for row in read.ranked:
        density, top = rates.get(row.latent, (0.0, 0.0))
        if density > DENSE_DENSITY and not asked.dense:
            continue
        bits = surprise(row.n, total, max(density, least))
        unit = top or row.max or 1.0  # a latent that never fired in its index has no unit but this text
        score = {"max": row.max / unit, "sum": row.sum / unit, "surprise": bits}[asked.rank]
        out.append(ActiveLatent(
            read.sae, row.latent, score, row.max, row.sum, row.n, row.peak, "", bits, density, top))
    best = nsmallest(asked.top, out, key=lambda one: (-one.score, one.latent))
    return [ActiveLatent(**vars(one) | {"token": _piece(text, one.peak)}) for one in best]


def _piece(text: InspectedText, position: int) -> str:
    return text.pieces[position].encode("latin-1").decode("utf-8", errors="replace")


def search_json(asked: TextSearch, text: InspectedText, found: Sequence[ActiveLatent], texts: dict[Any, str]) -> Any:
    """Return the JSON of a search; `texts` are labels by SAE and latent."""
    return {
        "text": asked.text, "saes": [sae.id for sae in asked.saes], "rank": asked.rank,
        "tokens": [_piece(text, place) for place in range(len(text.ids))],
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
        await run_in_threadpool(check_text, tools, asked)
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
