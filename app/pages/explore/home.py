"""Home, and the search box of every page."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from app.db.tables import Sae
from app.library import labels
from app.library.builds import Builds
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, WorkspaceDep
from app.pages.explore import sae_views
from app.pages.explore.sae_list import COLUMNS, HINTS, SaeTable, best
from app.pages.runs.api import sae_out
from app.pages.runs.runs import card_charts, runs_now
from app.render.token_text import token_label
from app.web.parameters import whole_number
from app.web.templating import render
from sae.errors import UserError

router = APIRouter(include_in_schema=False)

CARDS = 4  # SAEs that are shown as cards; more are shown as a table
# What the demo run does in each phase.
PHASES = (
    ("text", "Reads this Python's own standard library and cuts it into contexts of 128 tokens, BOS first in each."),
    ("training", "Runs the embedded language model up to one layer and trains the SAE on its residual stream."),
    ("evaluation", "Sets θ so that k latents are active on average, and measures the SAE on text it has not seen."),
    ("index", "Reads text once more and writes down, for every latent, when it fires and what it does."),
    ("ready", "Browse its latents, see how many each token needs, steer the model with any of them."),
)


@router.get("/index.json")
def home_json(db: SessionDep, catalog: CatalogDep, workspace: WorkspaceDep) -> JSONResponse:
    """Return the SAEs, newest first, and the active and queued runs."""
    return JSONResponse({"saes": [sae_out(sae).model_dump() for sae in catalog.list_saes()],
                         "runs": [run.as_json() for run in runs_now(db, workspace)]})


@router.get("/")
def home(
    request: Request, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, workspace: WorkspaceDep,
) -> Response:
    """Show what the program does, three ways in, and the SAEs: as cards, or as a table where there are many."""
    table = SaeTable.read([sae for sae in catalog.list_saes() if not sae.hidden], request.query_params)
    runs = runs_now(db, workspace)
    first = best(table.saes)
    first_card = _card(first, builds) if first else None
    few = table.saes if len(table.saes) <= CARDS else []
    return render(
        request, "explore/home.html", first=first_card, table=table, columns=COLUMNS, hints=HINTS,
        cards=[first_card if first_card and sae is first else _card(sae, builds) for sae in few],
        runs=[(run, card_charts(run, workspace)) for run in runs], phases=PHASES, json_url="/index.json")


def _card(sae: Sae, builds: Builds) -> sae_views.Card:
    if sae.current_build is None:
        return sae_views.card(sae, None)
    try:
        with builds.use(sae.id, sae.current_build) as build:
            return sae_views.card(sae, build)
    except UserError:  # its file was deleted or has another version, which the SAE's page says
        return sae_views.card(sae, None)


@router.get("/search.json")
def search_json(
    db: SessionDep, catalog: CatalogDep, builds: BuildsDep, q: str = "", sae: str = "",
) -> Response:
    """What the search box finds: latents of that number, labels and notes that hold the text, and tokens."""
    text = q.strip()[:200]
    every = catalog.list_saes()
    chosen = [row for row in every if row.id == sae] or every
    known = {row.id for row in every}
    found = labels.search(db, text, limit=100) if text else []
    tokens = {row.id: [{"token": label, "latents": href, "n": n} for label, href, n in _tokens(row, builds, text)]
              for row in chosen if text}
    numbers = [f"/{row.id}/{whole_number(text)}" for row in _with_number(every, text)]
    return JSONResponse({
        "q": text, "tokens": tokens, "numbers": numbers,
        "labels": [{"sae": row.sae_id, "latent": row.latent, "text": row.text, "note": row.note, "tags": row.tags}
                   for row in found if row.sae_id in known]})


@router.get("/search")
def search(
    request: Request, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, q: str = "", sae: str = "",
) -> Response:
    """Latents by number (opens it), label, or token, in one SAE or in all."""
    text = q.strip()[:200]
    every = catalog.list_saes()
    chosen = next((row for row in every if row.id == sae), every[0] if len(every) == 1 else None)
    if chosen is not None and _with_number([chosen], text):
        return RedirectResponse(f"/{chosen.id}/{whole_number(text)}", 303)
    known = {row.id for row in every}
    found = [row for row in labels.search(db, text, limit=100) if row.sae_id in known] if text else []
    found.sort(key=lambda row: row.sae_id != sae)
    searched = [chosen] if chosen else every
    return render(
        request, "explore/search.html", current_sae=chosen, search_text=text, q=text, labels=found,
        numbers=_with_number(every, text), tokens=[(row, _tokens(row, builds, text)) for row in searched if text],
        n_saes=len(every), json_url=f"/search.json?{request.url.query}")


def _with_number(saes: list[Sae], text: str) -> list[Sae]:
    """The SAEs that have a latent of this number."""
    return [row for row in saes if whole_number(text, row.n_latents) is not None]


def _tokens(sae: Sae, builds: Builds, text: str) -> list[tuple[str, str, int | None]]:
    """Tokens that hold the text: how they look, the address of the latents that fire on them, how often they occur."""
    if sae.current_build is None:
        return []
    try:
        with builds.use(sae.id, sae.current_build) as build:
            return [
                (token_label(t), f"/{sae.id}/latents?token={quote(f'#{t.token}', safe='')}", t.n)
                for t in build.find_tokens(text, 12) if t.n != 0]
    except UserError:
        return []


