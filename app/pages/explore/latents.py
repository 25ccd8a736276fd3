"""The table of an SAE's latents."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.library import labels
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep
from app.pages.explore import latent_views
from app.pages.explore.latents_query import LABEL_SORT, ListQuery, Resolved, resolve
from app.pages.json_twin import json_response
from app.pages.sae_page import find_sae, open_build, page
from app.render.latent_words import FLAG_NAMES, FLAG_WORDS
from app.render.token_text import token_label
from app.web.parameters import QueryNumber
from app.web.templating import is_htmx, render
from sae.store.latent_query import SCORE_SORT

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
DENSITY_NAMES = {
    "1e-5": "below 0.001%", "1e-4": "0.001 to 0.01%", "1e-3": "0.01 to 0.1%", "1e-2": "0.1 to 1%", "1e-1": "1 to 10%",
    "1": "10% and more",
}
COLUMNS = (
    # name, sort, class
    ("latent", "latent", "num"), ("label · strongest context", LABEL_SORT, ""), ("density", "density", "num"),
    ("max", "max", "num"), ("kurtosis", "kurtosis", "num"), ("company φ", "phi", "num"),
    ("adds to the output", "", ""), ("flags", "", ""),
)
# Sorts without a column of their own.
MORE_SORTS = {"mean": "mean activation", "logit_skew": "skew of its logits", "skew": "skew of its activations",
              "rule": "score of its rule", "cosine": "cosine of its nearest neighbour",
              "l0": "latents on its tokens", "position": "mean position"}


@router.get("/{model}/{name}/latents.json")
def latents_json(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, cursor: str = "",
    limit: QueryNumber = PAGE_ROWS,
) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        query = ListQuery.read(request.query_params)
        asked = resolve(query, build, db, sae.id)
        found = build.latents(asked.key, asked.descending, asked.filters, asked.token, cursor or None, limit)
        scores = asked.scores
        response = json_response(request, sae, build, lambda: {
            "total": found.total, "next": found.next_cursor, "sort": asked.sort, "descending": asked.descending,
            "token": asked.token, "latents": found.rows,
            "output_scores": {row.latent: scores[row.latent] for row in found.rows if row.latent in scores}},
            build_only=not (query.of_people or scores))
        if found.next_cursor:
            following = request.url.include_query_params(cursor=found.next_cursor)
            response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
        return response


@router.get("/{model}/{name}/latents")
def latents(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, cursor: str = "",
) -> Response:
    """The latent table.  htmx asks for rows after a cursor and gets rows alone."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        query = ListQuery.read(request.query_params)
        asked = resolve(query, build, db, sae.id)
        found = build.latents(asked.key, asked.descending, asked.filters, asked.token, cursor or None, PAGE_ROWS)
        written = labels.of_latents(db, sae.id, [row.latent for row in found.rows])
        table: dict[str, Any] = {
            "query": query, "asked": asked, "rows": latent_views.table_rows(build, found.rows, written),
            "total": found.total, "next_cursor": found.next_cursor, "flag_names": FLAG_NAMES,
            "flag_words": FLAG_WORDS, "scores": asked.scores}
        if is_htmx(request) and cursor:
            return render(request, "explore/_latent_rows.html", sae=sae, **table)
        return page(
            request, "explore/latents.html", sae, build.meta, section="latents", **table,
            facets=build.facets(asked.filters, asked.token), densities=DENSITY_NAMES, columns=_columns(asked),
            tokens=[(token_label(t), t) for t in asked.tokens], cursor=cursor,
            n_starred=len(labels.starred(db, sae.id)), n_labelled=len(labels.texts(db, sae.id)), sorts=MORE_SORTS,
            tags={tag: len(latents) for tag, latents in labels.tagged(db, sae.id).items()})


def _columns(asked: Resolved) -> list[tuple[str, str, str]]:
    """The table's columns; asked for by token, its firings take the place of the kurtosis."""
    if asked.token is None:
        score = [("output score", SCORE_SORT, "num")] if asked.scores else []
        return [*COLUMNS[:6], *score, *COLUMNS[6:]]
    extra = [("firings on it", "token", "num"), ("lift", "lift", "num")]
    return [*COLUMNS[:3], *extra, COLUMNS[3], *COLUMNS[6:]]
