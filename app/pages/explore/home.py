"""The home page."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.db.tables import Sae
from app.library.builds import Builds
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep, WorkspaceDep
from app.pages.explore import sae_views
from app.pages.explore.sae_list import COLUMNS, GROUPS, HINTS, SaeTable, best
from app.pages.runs.api import sae_out
from app.pages.runs.runs import card_charts, runs_now
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
    """Return the SAEs, newest first, the reasons why some are damaged, and the active and queued runs."""
    return JSONResponse({"saes": [sae_out(sae).model_dump() for sae in catalog.list_saes()],
                         "damaged": catalog.damaged(),
                         "runs": [run.as_json() for run in runs_now(db, workspace)]})


@router.get("/")
def home(
    request: Request, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, workspace: WorkspaceDep,
) -> Response:
    """Show what the program does, three ways in, and the SAEs: as cards, or as a table where there are many."""
    shown = [sae for sae in catalog.list_saes() if not sae.hidden]
    table, runs = SaeTable.read(shown, request.query_params), runs_now(db, workspace)
    first = best(shown)
    first_card = _card(first, builds) if first else None
    few = table.saes if len(shown) <= CARDS else []
    return render(
        request, "explore/home.html", first=first_card, table=table, columns=COLUMNS, hints=HINTS, groups=list(GROUPS),
        cards=[first_card if first_card and sae is first else _card(sae, builds) for sae in few],
        runs=[(run, card_charts(run, workspace)) for run in runs], phases=PHASES, damaged=catalog.damaged(),
        json_url="/index.json")


def _card(sae: Sae, builds: Builds) -> sae_views.Card:
    if sae.current_build is None:
        return sae_views.card(sae, None)
    try:
        with builds.use(sae.id, sae.current_build) as build:
            return sae_views.card(sae, build)
    except UserError:  # its file was deleted or has another version, which the SAE's page says
        return sae_views.card(sae, None)
