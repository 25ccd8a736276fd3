"""Two SAEs of one model side by side: nearest directions, co-firing, latents without a partner, splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic_core import to_jsonable_python
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.db.tables import Run, Sae
from app.jobs import queue
from app.jobs.places import chosen_place
from app.library import explanations
from app.library.catalog import Catalog
from app.library.latent_search import Reason, is_phrase
from app.pages.dependencies import (
    AdminDep,
    CatalogDep,
    SessionDep,
    SettingsDep,
    SupervisorDep,
    Tools,
    ToolsDep,
    WorkspaceDep,
)
from app.pages.explore.compare_views import Sides, comparable, cosine_chart
from app.pages.explore.sae_list import COLUMNS, best
from app.pages.find.latents import Scope, find_latents, numbered
from app.pages.find.phrase import Read, Reading, read_phrase, reading
from app.pages.provenance import training_warning
from app.pages.sae_page import find_sae, need_weights
from app.web.parameters import QueryNumber
from app.web.templating import is_htmx, render
from sae.errors import UserError
from sae.specs.registry import parse_spec
from sae.store.comparison import PARTNER_COSINE, PIECE_COSINE, Comparison, Match, comparison_path
from sae.workspace.paths import Workspace

router = APIRouter(include_in_schema=False)

ROWS = 40
VIEWS = {"pairs": "nearest pairs", "alone": "without a partner", "splits": "splits"}


def _sae(catalog: Catalog, sae_id: str) -> Sae | None:
    """Return the SAE, which must have weights; None where no SAE is named."""
    if sae_id.count("/") != 1:
        return None
    sae = find_sae(catalog, *sae_id.split("/"))
    need_weights(sae)
    return sae


@contextmanager
def _comparison(workspace: Workspace, a: Sae, b: Sae) -> Iterator[Comparison | None]:
    path = comparison_path(workspace, a.id, b.id)
    if not path.is_file():
        yield None
        return
    found = Comparison.open(path)
    try:
        yield found
    finally:
        found.close()


@router.get("/compare.json")
def compare_json(
    a: str, b: str, catalog: CatalogDep, workspace: WorkspaceDep, sort: str = "cosine", dir: str = "desc",
    only: str = "", offset: QueryNumber = 0, limit: QueryNumber = ROWS,
) -> Response:
    """Return a page of the matches of the latents of `a` in `b`, with the figures of both."""
    one, two = _sae(catalog, a), _sae(catalog, b)
    if one is None or two is None:
        raise HTTPException(404, "Name two SAEs: ?a=<model>/<name>&b=<model>/<name>")
    with _comparison(workspace, one, two) as found:
        if found is None:
            raise HTTPException(404, f"Not compared yet: saescope compare --a {a} --b {b}")
        side = found.side_of(one.id)
        matches = found.matches(side, sort, dir != "asc", only, max(offset, 0), max(1, min(limit, 1000)))
        return JSONResponse(to_jsonable_python({
            "meta": found.meta, "counts": _counts(found, side), "counts_other": _counts(found, 1 - side),
            "histogram": found.histogram(side), "splits": found.splits(side),
            "matches": [asdict(match) | {"mate": match.best_match} for match in matches]}))


def _counts(found: Comparison, side: int) -> dict[str, int]:
    """Return the counts of one side.  `living` is the old name of `alive`, as `mate` is of `best_match`."""
    counts = found.counts(side)
    return {"alive": counts["living"], "alone": counts["alone"], "living": counts["living"]}


@router.get("/compare")
async def show(
    request: Request, tools: ToolsDep, a: str = "", b: str = "", view: str = "pairs", sort: str = "cosine",
    dir: str = "desc", offset: QueryNumber = 0, q: str = "", read: str = "",
) -> Response:
    """Show the comparison of `a` with `b`, or a form to choose two SAEs.

    `q` lists the latents of `a` that a search finds, with `read=1` also those that are active on it.  htmx gets this
    list alone.
    """
    one, text, said = await run_in_threadpool(_sae, tools.catalog, a), q.strip()[:200], None
    if one is not None and read == "1" and is_phrase(text):
        said = await read_phrase(tools, _scope(one), text)
    order = {"view": view if view in VIEWS else "pairs", "sort": sort, "ascending": dir == "asc",
             "offset": max(offset, 0)}
    return await run_in_threadpool(_show, request, tools, one, b, order, text, said)


def _show(
    request: Request, tools: Tools, one: Sae | None, b: str, order: dict[str, Any], text: str, said: Read | None,
) -> Response:
    catalog, db, view, offset = tools.catalog, tools.db, order["view"], order["offset"]
    two = _sae(catalog, b)
    saes = [sae for sae in catalog.list_saes() if comparable(catalog, sae)]
    refused = _refusal(catalog, one, two)
    chosen = _preset(catalog, saes, one, None if refused else two)
    common: dict[str, Any] = {
        "section": "compare", "one": one, "two": two, "saes": saes, "chosen": chosen, "refused": refused,
        "current_sae": one, "partner": PARTNER_COSINE, "piece": PIECE_COSINE, "views": VIEWS, "search": None}
    if one is None or two is None or refused:
        return render(request, "explore/compare.html", 422 if refused else 200, found=None, **common)
    common |= {"columns": COLUMNS[2:-1], "warning": training_warning([one, two])}
    with _comparison(tools.workspace, one, two) as found:
        if found is None:
            return render(request, "explore/compare.html", found=None, run=_run_of(db, one, two), **common)
        side = found.side_of(one.id)
        sides = Sides(one, two, tools.builds, {sae.id: explanations.texts(db, sae.id) for sae in (one, two)})
        common |= order | {"rows": ROWS}
        if text:
            common["search"] = search = _search(tools, found, one, two, text, said)
            pairs, more = sides.pairs(search.matches), False
            if is_htmx(request):
                return render(request, "explore/_compare_found.html", pairs=pairs, **common)
        else:
            only, down = "alone" if view == "alone" else "", not order["ascending"]
            matches = [] if view == "splits" else found.matches(side, order["sort"], down, only, offset, ROWS + 1)
            pairs, more = sides.pairs(matches[:ROWS]), len(matches) > ROWS
        query = urlencode({"a": one.id, "b": two.id, "only": "alone" if view == "alone" else "", "sort": order["sort"],
                           "dir": "asc" if order["ascending"] else "desc", "offset": offset})
        return render(
            request, "explore/compare.html", found=found.meta, more=more, pairs=pairs,
            splits=sides.split_lines(found.splits(side)) if view == "splits" and not text else [],
            counts=_counts(found, side), counts_other=_counts(found, 1 - side),
            mmcs=(found.meta["mmcs_a"], found.meta["mmcs_b"])[:: 1 if side == 0 else -1],
            chart=cosine_chart(found, side, (one.name, two.name)), json_url=f"/compare.json?{query}", **common)


@dataclass(frozen=True)
class Search:
    """The latents of the first SAE that a search found, best first, with the reasons for each."""

    text: str
    matches: list[Match]
    why: dict[int, list[Reason]]
    reading: Reading


def _scope(sae: Sae) -> Scope:
    return Scope([sae], sae, sae if sae.current_build else None)


def _search(tools: Tools, comparison: Comparison, one: Sae, two: Sae, text: str, said: Read | None) -> Search:
    active = numbered([one], text, said.active if said else {})
    results = find_latents(tools.db, tools.builds, [one], text, ROWS, active)
    matches = comparison.of_latents(comparison.side_of(one.id), [result.found.latent for result in results])
    place = f"/compare?{urlencode({'a': one.id, 'b': two.id, 'q': text, 'read': 1})}"
    return Search(
        text, [matches[result.found.latent] for result in results if result.found.latent in matches],
        {result.found.latent: result.why for result in results}, reading(_scope(one), text, place, said))


@router.post("/compare")
def start(
    db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep, supervisor: SupervisorDep, admin: AdminDep,
    settings: SettingsDep, a: Annotated[str, Form()], b: Annotated[str, Form()],
) -> Response:
    """Queue the run that compares two SAEs."""
    a, b = catalog.present_id(a), catalog.present_id(b)
    spec = parse_spec("compare", {"a": a, "b": b})
    if refused := _refusal(catalog, _sae(catalog, a), _sae(catalog, b)):
        raise UserError(f"b: {refused}", "b")
    place = chosen_place(settings, "compare")
    run = queue.enqueue(db, workspace, "compare", spec.model_dump(), admin.name, place=place)
    supervisor.wake()
    return RedirectResponse(f"/runs/{run.id}", 303)


def _preset(
    catalog: Catalog, saes: list[Sae], one: Sae | None, two: Sae | None
) -> tuple[Sae | None, Sae | None]:
    """Return what the form shows: the SAEs that are named, else the best ones that can be compared."""
    first = one or best(saes)
    return first, two or (best(comparable(catalog, first)) if first else None)


def _refusal(catalog: Catalog, one: Sae | None, two: Sae | None) -> str:
    """Return why these two cannot be compared; "" where they can, or where one is still to be chosen."""
    if one is None or two is None:
        return ""
    if one.id == two.id:
        return f"Choose two different SAEs: {one.id} is on both sides."
    if two.id not in {sae.id for sae in comparable(catalog, one)}:
        return f"{two.id} cannot be compared with {one.id}: it has another language model or another width."
    return ""


def _run_of(db: Session, one: Sae, two: Sae) -> Run | None:
    """Return the newest run that compares these two, in either order."""
    for run in db.scalars(select(Run).where(Run.kind == "compare").order_by(Run.created.desc()).limit(100)):
        if {run.spec.get("a"), run.spec.get("b")} == {one.id, two.id}:
            return run
    return None


