"""The table of an SAE's latents."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from app.library import explanations, labels
from app.library.label_files import Imported
from app.pages.dependencies import AdminDep, BuildsDep, CatalogDep, SessionDep, UserDep
from app.pages.explore.latent_rows import Written, rows_html
from app.pages.explore.latents_columns import CHOOSABLE, sort_names, table_columns
from app.pages.explore.latents_facets import people_counts
from app.pages.explore.latents_query import ListQuery, Resolved, resolve
from app.pages.json_twin import json_response
from app.pages.sae_page import find_sae, open_build, page
from app.pages.stars import starred
from app.render.latent_words import FLAG_NAMES, FLAG_WORDS
from app.render.token_text import token_label
from app.web.parameters import QueryNumber, whole_number
from app.web.templating import is_htmx, render
from sae.errors import UserError
from sae.store.build import Build
from sae.store.connection import MAX_PAGE
from sae.store.latent_query import Page
from sae.store.records import Token

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
EXPLAINED_AT_ONCE = 5000  # latents of a filter; their numbers are in an address
DENSITY_NAMES = {
    "1e-5": "below 0.001%", "1e-4": "0.001 to 0.01%", "1e-3": "0.01 to 0.1%", "1e-2": "0.1 to 1%", "1e-1": "1 to 10%",
    "1": "10% and more",
}


@router.get("/{model}/{name}/latents.json")
def latents_json(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, user: UserDep,
    cursor: str = "", limit: QueryNumber = PAGE_ROWS,
) -> Response:
    """Return a page of the latent table."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        query = ListQuery.read(request.query_params)
        asked = resolve(query, build, db, sae.id, starred(request, db, user, sae.id) if query.starred else frozenset())
        found = _rows(build, asked, cursor, limit)
        scores, names = asked.scores, explanations.names(db, sae.id, [row.latent for row in found.rows])
        response = json_response(request, sae, build, lambda: {
            "total": found.total, "next": found.next_cursor, "sort": asked.sort, "descending": asked.descending,
            "token": asked.token, "logit": asked.filters.logit, "latents": found.rows,
            "names": names,
            "output_scores": {row.latent: scores[row.latent] for row in found.rows if row.latent in scores}},
            build_only=not (query.of_people or scores or names))
        if found.next_cursor:
            following = request.url.include_query_params(cursor=found.next_cursor)
            response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
        return response


@router.get("/{model}/{name}/latents")
def latents(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, user: UserDep,
    cursor: str = "", shown: str = "", imported: str = "", added: str = "",
) -> Response:
    """Show the latent table.  htmx asks for the rows after a cursor and gets rows alone.

    `shown` is how many rows are on the page: without a cursor so many are shown, so that a reader who comes back finds
    the rows that "More" had added.  `imported` is what became of a file of labels, `added` how many explanations of a
    file are new.  Values of the query that do not exist are left out, and named above the table.
    """
    sae = find_sae(catalog, model, name)
    before = min(whole_number(shown) or 0, MAX_PAGE)
    with open_build(builds, sae) as build:
        query, faults = ListQuery.read(request.query_params).usable()
        stars = starred(request, db, user, sae.id)
        asked = resolve(query, build, db, sae.id, stars)
        try:
            found = _rows(build, asked, cursor, PAGE_ROWS if cursor else max(before, PAGE_ROWS))
        except UserError as error:
            if error.field != "cursor":
                raise
            faults, cursor = [*faults, str(error)], ""
            found = _rows(build, asked, cursor, PAGE_ROWS)
        numbers = [row.latent for row in found.rows]
        written = Written(labels.of_latents(db, sae.id, numbers), explanations.names(db, sae.id, numbers), stars,
                          asked.scores)
        columns = table_columns(asked, found.rows, query.columns)
        n_shown = before + len(found.rows) if cursor else len(found.rows)
        table: dict[str, Any] = {
            "query": query, "asked": asked, "latents": numbers, "rows_html": rows_html(
                build, sae, found.rows, columns, asked.token, written, query.string()),
            "total": found.total, "next_cursor": found.next_cursor, "shown": n_shown}
        if is_htmx(request) and cursor:
            response = render(request, "explore/_latent_rows.html", sae=sae, **table)
            response.headers["HX-Replace-Url"] = f"/{sae.id}/latents{query.plus(shown=n_shown)}"
            return response
        counts = people_counts(build, db, sae.id, asked, stars)
        return page(
            request, "explore/latents.html", sae, build.meta, section="latents", **table, faults=faults,
            flag_names=FLAG_NAMES, flag_words=FLAG_WORDS, columns=columns, imported=_imported(imported),
            added=whole_number(added), json_url=f"/{sae.id}/latents.json{query.string()}",
            status_code=422 if faults else 200, scores=asked.scores,
            facets=build.facets(asked.filters, asked.token), densities=DENSITY_NAMES, cursor=cursor,
            sorts=sort_names(asked, bool(counts.explained)), tokens=_labelled(asked.tokens),
            logit_tokens=_labelled(asked.logit_tokens),
            choosable=CHOOSABLE.values(), people=counts)


@router.get("/{model}/{name}/latents/explain")
def explain_latents(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep, admin: AdminDep,
) -> Response:
    """Lead to the form of a run that explains the first latents of the table with these filters and this sort."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        query, _ = ListQuery.read(request.query_params).usable()
        asked = resolve(query, build, db, sae.id, starred(request, db, admin, sae.id))
        chosen, cursor = list[int](), ""
        while len(chosen) < EXPLAINED_AT_ONCE:
            found = _rows(build, asked, cursor, min(MAX_PAGE, EXPLAINED_AT_ONCE - len(chosen)))
            chosen += [row.latent for row in found.rows]
            if found.next_cursor is None:
                break
            cursor = found.next_cursor
    numbers = ",".join(f"#{latent}" for latent in chosen)
    return RedirectResponse(f"/admin/explain?{urlencode({'sae': sae.id, 'latents': numbers or 'unexplained'})}", 303)


def _rows(build: Build, asked: Resolved, cursor: str, limit: int) -> Page:
    return build.latents(asked.key, asked.descending, asked.filters, asked.token, cursor or None, limit)


def _imported(said: str) -> Imported | None:
    """Read the numbers of an import from the address; None where there are none."""
    numbers = [whole_number(part) for part in said.split("-")]
    return Imported(*[n for n in numbers if n is not None]) if len(numbers) == 3 and None not in numbers else None


def _labelled(tokens: list[Token]) -> list[tuple[str, Token]]:
    return [(token_label(token), token) for token in tokens]
