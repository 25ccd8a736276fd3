"""The map of an SAE's decoder directions."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.latent_names import names_of
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep
from app.pages.explore.map_views import COLOURS, look
from app.pages.find.latents import Scope, find_latents, numbered
from app.pages.find.phrase import Read, reading
from app.pages.json_twin import json_response
from app.pages.sae_page import find_sae, open_build, page
from app.render.plane import View, plane
from app.web.parameters import whole_number
from app.web.templating import is_htmx, render
from sae.store.map_points import map_points

router = APIRouter(include_in_schema=False)

HITS = 500  # latents that a search rings


@router.get("/{model}/{name}/map.json")
def map_json(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    """Return the place of every latent on the map; of a large build, about one in `every`."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        def values() -> dict[str, Any]:
            points = map_points(build)
            columns = (points.latent_N, points.x_N, points.y_N, points.density_N)
            return {"map": build.meta.get("map"), "every": points.every, "columns": ["latent", "x", "y", "density"],
                    "points": list(zip(*(column.tolist() for column in columns), strict=True))}

        return json_response(request, sae, build, values)


@router.get("/{model}/{name}/map")
def show_map(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    colour: str = "", q: str = "", cluster: str = "",
) -> Response:
    """Show a window of the map (`zoom`, `x`, `y`), coloured, with the latents ringed that a search finds.

    htmx asks for the map alone.  For a phrase, it is asked again for the latents that are active on it.
    """
    return map_page(request, db, builds, scope_of(find_sae(catalog, model, name)), colour, q.strip()[:200], cluster)


def scope_of(sae: Sae) -> Scope:
    """Return the SAE as what a search looks through."""
    return Scope([sae], sae, sae if sae.current_build and not sae.weightless else None)


def map_page(
    request: Request, db: Session, builds: Builds, scope: Scope, colour: str, text: str, cluster: str,
    said: Read | None = None,
) -> Response:
    """Return the map of the SAE of the scope; `said` is what the model says of the text."""
    sae = scope.every[0]
    kind, view = colour if colour in COLOURS else "density", View.read(request.query_params)
    only = whole_number(cluster) if kind == "cluster" else None
    with open_build(builds, sae) as build:
        active = numbered([sae], text, said.active if said else {})
        found = [one.found.latent for one in find_latents(db, builds, [sae], text, HITS, active, bare=True)]
        points = map_points(build).plus(build, found)
        colours = {key: name for key, name in COLOURS.items() if key != "cluster" or points.every == 1}
        kind = kind if len(points.latent_N) and kind in colours else "density"
        shown = look(kind, points, build, db, sae.id, only)
        picture = plane(points, view, shown.colours, sae.id, partial(names_of, db, build, sae.id), found)

        def href(at: View = view, read: bool = said is not None, **changes: object) -> str:
            state = {"colour": kind if kind != "density" else "", "q": text, "cluster": only, **changes}
            state |= {"zoom": at.zoom, "x": at.x, "y": at.y} if at != View() else {}
            query = urlencode({key: value for key, value in state.items() if value not in ("", None)})
            return f"/{sae.id}/map{'/found' if read else ''}{'?' if query else ''}{query}"

        context: dict[str, Any] = {
            "plane": picture, "look": shown, "colour": kind, "colour_names": colours, "every": points.every, "q": text,
            "view": view, "whole_map": View(), "href": href, "n_found": len(found), "only": only,
            "n_ringed": int(np.isin(points.latent_N, found).sum()),
            "reading": reading(scope, text, href(read=True), said)}
        if is_htmx(request):
            return render(request, "explore/_map.html", sae=sae, **context)
        return page(request, "explore/map.html", sae, build.meta, **context)
