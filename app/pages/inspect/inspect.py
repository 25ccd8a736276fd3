"""The prompt inspector: which latents fire on a text, and where.

`POST /inspect` stores the texts and leads to `/inspect/{id}`, their permanent link.  `GET /inspect` with texts in the
address shows the same without storing them.  The model worker computes either; the server waits for it a little, and
the page asks again if it takes longer.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from app.db.tables import Inspection, Sae
from app.library.latent_names import AllNames, names_of
from app.pages.dependencies import SessionDep, Tools, ToolsDep
from app.pages.earlier import INSPECTED
from app.pages.inspect.form import (
    DisplayOptions,
    InspectForm,
    InspectionQuery,
    InspectionUrl,
    check,
    form_of,
    read_form,
)
from app.pages.inspect.lookup import card_of, context_text, earlier_inspections, example, readings
from app.pages.inspect.result import OpenedSAE, Result, result, result_json
from app.pages.inspect.view import MEASURES
from app.pages.markup_choice import choice_of
from app.pages.provenance import provenance_words
from app.pages.sae_choice import computable_saes
from app.pages.sae_page import open_build
from app.web.errors import wants_json
from app.web.parameters import QueryNumber
from app.web.templating import is_htmx, render
from app.worker.cached_requests import PATIENCE_S, CachedRequest, fault_answer
from app.worker.protocol import Inspect, Inspected
from sae.steering.measurement_requests import MAX_TOP, InspectRequest

router = APIRouter(include_in_schema=False)



@router.get("/inspect.json")
@router.get("/inspect")
async def show_form(request: Request, tools: ToolsDep) -> Response:
    """Show the form with an example, or, with texts or a context in the address, their inspection.

    A context is named by `?sae=…&latent=…&context=…`; in JSON it gives the form's text, not its inspection.
    """
    query = request.query_params
    form = await run_in_threadpool(_filled, request, tools)
    from_context = bool(query.get("context") and form.text) and not wants_json(request)
    if not query.get("text") and not from_context:
        return await run_in_threadpool(_form_page, request, tools, form)
    asked = await run_in_threadpool(check, form, tools.catalog)
    if asked is None:
        return await run_in_threadpool(_form_page, request, tools, form, 422)
    return await _answer(request, tools, InspectionUrl(asked, False, DisplayOptions.read(query)))


@router.post("/inspect")
async def create(request: Request, tools: ToolsDep) -> Response:
    """Check the form, store the texts and lead to their page.  Faults are shown at their fields."""
    form = read_form(await request.form())
    asked = await run_in_threadpool(check, form, tools.catalog)
    if asked is None:
        return await run_in_threadpool(_form_page, request, tools, form, 422)
    await run_in_threadpool(_store, tools.db, asked)
    response = await _created(request, tools, asked, InspectionUrl(asked, True, DisplayOptions()))
    INSPECTED.remember(request, response, asked.id)
    return response


async def _created(request: Request, tools: Tools, asked: InspectionQuery, place: InspectionUrl) -> Response:
    if wants_json(request):
        return JSONResponse({"id": asked.id, "url": place.link()}, 201, {"Location": place.link()})
    if is_htmx(request):
        response = await _answer(request, tools, place, patience_s=0.3)
        response.headers["HX-Push-Url"] = place.link()
        return response
    await tools.cached_requests.begin(*await run_in_threadpool(keyed_message, tools, asked))  # the page finds it active
    return RedirectResponse(place.link(), 303)


@router.get("/inspect/earlier")
def show_earlier(request: Request, tools: ToolsDep) -> Response:
    """Return the list of the inspections that this browser made."""
    return render(request, "inspect/_earlier.html", earlier=earlier_inspections(tools.db, request))


@router.get("/inspect/card")
def card(request: Request, tools: ToolsDep, sae: str, latent: QueryNumber) -> Response:
    """Show a latent in short: name, density, strongest contexts."""
    row = tools.catalog.get_sae(sae)
    if row is None or row.current_build is None:
        raise HTTPException(404, f"There is no SAE {sae} with an index here.")
    with tools.builds.use(row.id, row.current_build) as build:
        found = build.latent(latent)
        if found is None:
            raise HTTPException(404, f"{sae} has no latent {latent}.")
        name = names_of(tools.db, build, row.id, [latent]).get(latent, "")
        return render(request, "inspect/_card.html", latent_name=name, card=card_of(build, found))


@router.get("/inspect/{inspection_id}")
@router.get("/inspect/{inspection_id}.json")  # applied first, so it is matched first
async def show(request: Request, inspection_id: str, tools: ToolsDep) -> Response:
    """Show a stored inspection; it is computed again if its answer is no longer cached."""
    row = await run_in_threadpool(tools.db.get, Inspection, inspection_id)
    if row is None:
        raise HTTPException(404, f"There is no inspection {inspection_id}.")
    options = DisplayOptions.read(request.query_params)
    return await _answer(request, tools, InspectionUrl(InspectionQuery.of(row.request), True, options))


def _filled(request: Request, tools: Tools) -> InspectForm:
    query = request.query_params
    form = read_form(query)
    if not form.sae:
        form.sae = next((sae.id for sae in computable_saes(tools.catalog)), "")
    if query.get("context"):
        form.text = context_text(tools.catalog, tools.builds, form.sae, query.get("latent", ""), query["context"])
    elif "text" not in query:
        form.text = example(tools.catalog, tools.builds, form.sae)
    return form


def _store(db: SessionDep, asked: InspectionQuery) -> None:
    if db.get(Inspection, asked.id) is None:
        db.add(Inspection(id=asked.id, request=asked.json()))
        db.commit()


async def _answer(request: Request, tools: Tools, place: InspectionUrl, patience_s: float = PATIENCE_S) -> Response:
    """Return the result, or the state that it waits in."""
    saes = await run_in_threadpool(saes_of, tools, place.asked)
    patience_s = 60.0 if wants_json(request) else patience_s
    cached = await tools.cached_requests.ask(*keyed_message(tools, place.asked, saes), patience_s)
    return await run_in_threadpool(_show, request, tools, place, saes, cached)


def keyed_message(tools: Tools, asked: InspectionQuery, saes: list[Sae] | None = None) -> tuple[Hashable, Inspect]:
    """Return the worker's message, and the key under which its answer is cached."""
    saes = saes or saes_of(tools, asked)
    key = (asked, *(sae.current_build for sae in saes), *(sae.created for sae in saes))
    return key, _message(saes, asked, tools)


def saes_of(tools: Tools, asked: InspectionQuery) -> list[Sae]:
    """Return the SAEs of an inspection.  Raises 404 if one is no longer here or has no index."""
    found = [tools.catalog.get_sae(sae_id) for sae_id in asked.saes]
    for sae_id, sae in zip(asked.saes, found, strict=True):
        if sae is None or sae.current_build is None or sae.weightless:
            raise HTTPException(404, f"{sae_id}, which this text was read with, is no longer here or has no index.")
    return [sae for sae in found if sae is not None]


def _message(saes: list[Sae], asked: InspectionQuery, tools: Tools) -> Inspect:
    request = InspectRequest(
        model=str(saes[0].config["model"]["name"]), saes=asked.saes, texts=asked.texts, top=MAX_TOP,
        markup=choice_of(asked.markup))
    return Inspect(request=request, folders={sae.id: str(tools.workspace.sae(sae.id)) for sae in saes})


def _show(
    request: Request, tools: Tools, place: InspectionUrl, saes: list[Sae], cached: CachedRequest,
) -> Response:
    """Render a request in its present state: the result, the wait, or the fault."""
    status, headers, context = 200, dict[str, str](), dict[str, Any](shown=None, waiting=None, fault=None)
    if cached.last is None:
        context["waiting"], status = cached.note, 202 if wants_json(request) else 200
    elif cached.fault is not None:
        context["fault"], status, headers = fault_answer(cached)
    else:
        assert isinstance(cached.last, Inspected)
        context["shown"], context["card"] = _result(tools, place, saes, cached.last), None
    if wants_json(request):
        said = context["fault"] or context["waiting"]
        body = {"error" if context["fault"] else "state": said, "status": status} if said else result_json(
            place.asked, context["shown"], place.view)
        return JSONResponse(body, status, headers)
    context |= {"place": place, "measures": MEASURES}
    if is_htmx(request):
        name = "inspect/_token.html" if request.headers.get("HX-Target") == "token-latents" else "inspect/_result.html"
        return render(request, name, 200, headers, **context)
    frame = _frame(request, tools, form_of(place.asked))
    return render(request, "inspect/page.html", status, headers, **frame, **context, json_url=place.link(".json"))


def _result(tools: Tools, place: InspectionUrl, saes: list[Sae], answer: Inspected) -> Result:
    with ExitStack() as stack:
        builds = [stack.enter_context(open_build(tools.builds, sae)) for sae in saes]
        opened: OpenedSAE = [
            (sae, build, AllNames(tools.db, build, sae.id)) for sae, build in zip(saes, builds, strict=True)]
        return result(place.asked, readings(answer), opened, place.view)


def _form_page(request: Request, tools: Tools, form: InspectForm, status: int = 200) -> Response:
    if wants_json(request):
        if form.errors:
            first = next(iter(form.errors))
            return JSONResponse({"error": f"{first}: {form.errors[first]}", "status": status, "field": first,
                                 "errors": form.errors}, status)
        return JSONResponse({"text": form.text, "text2": form.text2, "sae": form.sae, "with": form.beside,
                             "markup": form.markup})
    context = _frame(request, tools, form)
    if is_htmx(request):
        headers = {"HX-Retarget": "#inspect-form", "HX-Reswap": "outerHTML"}
        return render(request, "inspect/_form.html", status, headers, **context)
    return render(request, "inspect/page.html", status, **context, json_url="/inspect.json",
                  shown=None, waiting=None, fault=None, place=None, measures=MEASURES)


def _frame(request: Request, tools: Tools, form: InspectForm) -> dict[str, Any]:
    """Return what the page shows for every result."""
    saes = computable_saes(tools.catalog)
    current = next((sae for sae in saes if sae.id == form.sae), saes[0] if saes else None)
    words = []
    if current is not None:
        with open_build(tools.builds, current) as build:
            words = provenance_words(current, build.meta)
    return {"form": form, "saes": saes, "current_sae": current, "section": "inspect", "strip": words,
            "earlier": earlier_inspections(tools.db, request)}
