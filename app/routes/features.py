"""An SAE, the table of its latents, and a single latent."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app import labels, latentviews, mapviews, saeviews
from app.deps import BuildsDep, CatalogDep, SessionDep, UserDep, WorkspaceDep
from app.documents import WINDOW, document_view, open_corpus
from app.downloads import links_of_latent, links_of_sae
from app.errors import SignInNeeded
from app.listquery import ListQuery, Resolved, resolve
from app.models import Sae
from app.relations import related_latents, relations
from app.rulewords import rule_words
from app.saepages import find_sae, json_response, latent_number, of_build, open_build, page
from app.security import CSP_EMBED
from app.templating import is_htmx, render
from app.tokens_view import WINDOWS, token_label
from sae.errors import UserError
from sae.listing import LIVING
from sae.records import FLAGS, Latent
from sae.store import Build

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
FLAG_NAMES = {
    LIVING: "living", "dead": "dead", "dense": "dense", "rare": "rare", "single_token": "single token",
    "position_bound": "position-bound", "punctuation": "punctuation", "number": "numbers", "capital": "capitals",
}
FLAG_WORDS = {LIVING: "fired at least once", **FLAGS}
DENSITY_NAMES = {
    "1e-5": "below 0.001%", "1e-4": "0.001 to 0.01%", "1e-3": "0.01 to 0.1%", "1e-2": "0.1 to 1%", "1e-1": "1 to 10%",
    "1": "10% and more",
}
COLUMNS = (
    # name, sort, class
    ("latent", "latent", "num"), ("label · strongest context", "", ""), ("density", "density", "num"),
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
    limit: int = PAGE_ROWS,
) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        query = ListQuery.read(request.query_params)
        asked = resolve(query, build, db, sae.id)
        found = build.latents(asked.sort, asked.descending, asked.filters, asked.token, cursor or None, limit)
        scores = dict(asked.filters.scores)
        response = json_response(request, sae, build, lambda: {
            "total": found.total, "next": found.next_cursor, "sort": asked.sort, "descending": asked.descending,
            "token": asked.token, "latents": found.rows,
            "output_scores": {row.latent: scores[row.latent] for row in found.rows if row.latent in scores}},
            build_only=not (query.label or query.starred or scores))
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
        found = build.latents(asked.sort, asked.descending, asked.filters, asked.token, cursor or None, PAGE_ROWS)
        written = labels.of_latents(db, sae.id, [row.latent for row in found.rows])
        table: dict[str, Any] = {
            "query": query, "asked": asked, "rows": latentviews.table_rows(build, found.rows, written),
            "total": found.total, "next_cursor": found.next_cursor, "flag_names": FLAG_NAMES,
            "flag_words": FLAG_WORDS, "scores": dict(asked.filters.scores)}
        if is_htmx(request) and cursor:
            return render(request, "pages/_latent_rows.html", sae=sae, **table)
        return page(
            request, "pages/latents.html", sae, build.meta, section="latents", **table,
            facets=build.facets(asked.filters, asked.token), densities=DENSITY_NAMES, columns=_columns(asked),
            tokens=[(token_label(t), t) for t in asked.tokens], cursor=cursor,
            n_starred=len(labels.starred(db, sae.id)), n_labelled=len(labels.texts(db, sae.id)), sorts=MORE_SORTS,
            tags={tag: len(latents) for tag, latents in labels.tagged(db, sae.id).items()})


def _columns(asked: Resolved) -> list[tuple[str, str, str]]:
    """The table's columns; asked for by token, its firings take the place of the kurtosis."""
    if asked.token is None:
        score = [("output score", "score", "num")] if asked.filters.scores else []
        return [*COLUMNS[:6], *score, *COLUMNS[6:]]
    extra = [("firings on it", "token", "num"), ("lift", "lift", "num")]
    return [*COLUMNS[:3], *extra, COLUMNS[3], *COLUMNS[6:]]


@router.get("/{model}/{name}/map.json")
def map_json(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        return json_response(request, sae, build, lambda: {
            "map": build.meta.get("map"), "columns": ["latent", "x", "y", "density"], "points": build.map_points()})


@router.get("/{model}/{name}/map")
def show_map(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    """The plane of decoder directions."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        names = labels.texts(db, sae.id)
        return page(request, "pages/map.html", sae, build.meta, plane=mapviews.plane(build, sae.id, names),
                    named=bool(names))


@router.get("/{model}/{name}/random")
def any_latent(model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    """One of the living latents."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        found = build.random_latents(1, seed=secrets.randbits(31))
    if not found:
        raise HTTPException(404, f"No latent of {sae.id} fired in the text of its build.")
    return RedirectResponse(f"/{sae.id}/{found[0]}", 303, {"Cache-Control": "no-store"})


@router.get("/{model}/{name}/{number}.json")
def latent_json(
    request: Request, model: str, name: str, number: str, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        latent = _find_latent(build, sae, number)
        return json_response(request, sae, build, lambda: _latent_values(build, latent))


def _latent_values(build: Build, latent: Latent) -> dict[str, Any]:
    contexts = build.contexts(latent.latent)
    used = [f.token for f in [*latent.top_tokens, *latent.next_tokens]]
    used += [t for t, _ in [*latent.logit_pos, *latent.logit_neg]] + [t for c in contexts for t in c.tokens]
    edges = ("hist_low", "hist_edges", "logit_edges")
    return {
        "latent": latent, "contexts": contexts, **{name: build.meta[name] for name in edges},
        "tokens": {t.token: t.piece for t in build.token_info(used).values()}}


@router.get("/{model}/{name}/{number}")
def latent(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    window: str = "short", nl: str = "", embed: str = "",
) -> Response:
    """The page people live on.  htmx asks for the contexts alone, with another window; `embed=1` is for a frame."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        found = _find_latent(build, sae, number)
        window = window if window in WINDOWS else "short"
        query = ListQuery.read(request.query_params)
        shown: dict[str, Any] = {
            "latent": found, "bands": latentviews.bands(build, found, window), "window": window,
            "newlines": nl == "1", "windows": tuple(w for w in WINDOWS if w != "snippet"), "query": query}
        if request.headers.get("HX-Target") == "contexts":
            return of_build(render(request, "pages/_contexts.html", sae=sae, **shown), build, request)
        adds, removes = latentviews.logit_lines(build, found)
        shown |= {
            "label": labels.get(db, sae.id, found.latent), "adds": adds, "removes": removes, "flag_names": FLAG_NAMES,
            "activation_chart": latentviews.activation_chart(found, build.meta),
            "rule": rule_words(found.rule, build.token_info(found.rule.tokens if found.rule else []))}
        if embed == "1":
            response = page(request, "pages/embed.html", sae, build.meta, **shown)
            response.headers["Content-Security-Policy"] = CSP_EMBED
            return response
        asked = resolve(query, build, db, sae.id)
        before, after = build.around(found.latent, asked.sort, asked.descending, asked.filters, asked.token)
        if before is None and after is None:  # not in the list one came from: by number
            before, after = build.around(found.latent)
        fires_on, followed_by = latentviews.firing_lines(build, found)
        return page(
            request, "pages/latent.html", sae, build.meta, section="latents", **shown, before=before, after=after,
            explanations=build.explanations(found.latent), exports=links_of_latent(sae, found.latent),
            fires_on=fires_on, followed_by=followed_by, logit_chart=latentviews.logit_chart(found, build.meta),
            flag_words=FLAG_WORDS,
            relations=relations(build, found, labels.of_latents(db, sae.id, related_latents(found))))


@router.get("/{model}/{name}/{number}/source/{ctx}")
def source_document(
    request: Request, model: str, name: str, number: str, ctx: int, catalog: CatalogDep, builds: BuildsDep,
    workspace: WorkspaceDep, first: int | None = None,
) -> Response:
    """The document that a context was cut from, around it."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        latent = _find_latent(build, sae, number)
        try:
            view = document_view(build, open_corpus(build, workspace), latent, ctx, first)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        return page(request, "pages/document.html", sae, build.meta, section="latents", latent=latent, ctx=ctx,
                    view=view, window=WINDOW, json_url=None)


@router.post("/{model}/{name}/{number}/label")
def write_label(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, user: UserDep,
    text: Annotated[str | None, Form()] = None, note: Annotated[str | None, Form()] = None,
    tags: Annotated[str | None, Form()] = None, star: Annotated[str | None, Form()] = None,
) -> Response:
    """Store label, note, tags or star; whatever the form does not hold stays as it was."""
    if user is None:
        raise SignInNeeded
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    label = labels.save(
        db, sae.id, latent, user.name, text=text, note=note, tags=tags, star=None if star is None else star == "1")
    if is_htmx(request):
        return render(request, "pages/_label.html", sae=sae, number=latent, label=label, saved=True)
    return RedirectResponse(f"/{sae.id}/{latent}", 303)


def _find_latent(build: Build, sae: Sae, number: str) -> Latent:
    found = build.latent(latent_number(sae, number))
    if found is None:
        said = "the imported file has no row for it" if sae.weightless else "make it anew"
        raise HTTPException(404, f"Build {build.id} knows no latent {number} of {sae.id}; {said}.")
    return found


@router.get("/{model}/{name}.json")
def sae_json(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        return json_response(request, sae, build, lambda: {
            "config": sae.config, "meta": build.meta, "counts": build.counts(), "l0_hist": build.l0_hist(),
            "density_histogram": build.density_histogram()}, build_only=False)  # the metrics may be measured anew


@router.get("/{model}/{name}")
def show_sae(
    request: Request, model: str, name: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    workspace: WorkspaceDep,
) -> Response:
    """What the SAE is, how good it is, its plots, and where to start."""
    sae = find_sae(catalog, model, name)
    rows = saeviews.training_rows(sae, workspace)
    common: dict[str, Any] = {"metrics": saeviews.metrics(sae), "curves": saeviews.curve_charts(rows),
                              "exports": links_of_sae(sae)}
    if sae.current_build is None:
        return page(request, "pages/sae.html", sae, None, json_url="/api/saes", build=None, **common)
    with open_build(builds, sae) as build:
        starts = saeviews.starts(sae, build)
        return page(
            request, "pages/sae.html", sae, build.meta, build=build, counts=build.counts(), **common,
            l0_chart=saeviews.l0_chart(l0, sae, build.meta.get("bos_l0")) if (l0 := build.l0_hist()) else None,
            density_chart=saeviews.density_chart(build), cosine_chart=saeviews.cosine_chart(build),
            starts=[(s, _start_rows(build, db, sae, s)) for s in starts])


def _start_rows(build: Build, db: Session, sae: Sae, start: saeviews.Start) -> list[latentviews.TableRow]:
    rows = {row.latent: row for row in build.some(start.latents)}
    written = labels.of_latents(db, sae.id, start.latents)
    return latentviews.table_rows(build, [rows[i] for i in start.latents], written)
