"""The page of a latent, its label, and the documents in which it fires."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from markupsafe import Markup
from sqlalchemy.orm import Session

from app.access.middleware import CSP_EMBED
from app.db.tables import Label, Sae
from app.library import comments, explanations, labels, lists, written
from app.library.documents import WINDOW, DocumentView, document_view, open_corpus
from app.library.exports import links_of_latent
from app.pages.dependencies import BuildsDep, CatalogDep, EditorDep, SessionDep, UserDep, WorkspaceDep
from app.pages.explore import latent_views
from app.pages.explore.explanation_views import explanations_json, explanations_of
from app.pages.explore.items import shown_items
from app.pages.explore.latents_query import ListQuery, resolve
from app.pages.explore.related_latents import related_latents, relations
from app.pages.json_twin import json_response, of_build
from app.pages.sae_page import find_sae, latent_number, open_build, page
from app.pages.stars import star as put_star
from app.pages.stars import starred
from app.render.latent_words import FLAG_NAMES, FLAG_WORDS, rule_words
from app.render.token_text import WINDOWS
from app.render.zoom import Zoom
from app.web.errors import NotHere
from app.web.parameters import PathNumber, QueryNumber, whole_number
from app.web.templating import fragment, is_htmx, render
from sae.errors import UserError
from sae.store.build import Build
from sae.store.records import Latent
from sae.workspace.paths import Workspace

router = APIRouter(include_in_schema=False)


@router.get("/{model}/{name}/{number}.json")
def latent_json(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    """Return all that the build knows of a latent, and its explanations."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        latent = _find_latent(build, sae, number)
        explained = explanations_json(db, sae, latent.latent)
        return json_response(
            request, sae, build, lambda: _latent_values(build, latent) | {"explanations": explained},
            build_only=not explained)


def _latent_values(build: Build, latent: Latent) -> dict[str, Any]:
    contexts = build.contexts(latent.latent)
    used = [f.token for f in [*latent.top_tokens, *latent.next_tokens]]
    used += latent.rule.tokens if latent.rule else []
    used += [t for t, _ in [*latent.logit_pos, *latent.logit_neg]] + [t for c in contexts for t in c.tokens]
    edges = ("hist_low", "hist_edges", "logit_edges")
    return {
        "latent": latent, "contexts": contexts, **{name: build.meta[name] for name in edges},
        "tokens": {t: build.vocabulary[t].piece.decode("utf-8", errors="replace") for t in used}}


@router.get("/{model}/{name}/{number}")
def latent(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, builds: BuildsDep,
    user: UserDep, window: str = "short", nl: str = "", contexts: str = "", embed: str = "",
    bin: str = "",
) -> Response:
    """Show a latent.  htmx asks for a part: the contexts (with another window, or more of them), or a zoomed chart.

    `contexts` is how many are shown of each band.  `bin` is a bin of the activation histogram: only the contexts that
    peak in it are shown.  `embed=1` is for a frame of another site.
    """
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        found = _find_latent(build, sae, number)
        window = window if window in WINDOWS else "short"
        query, _ = ListQuery.read(request.query_params).usable()
        most = max(whole_number(contexts) or 0, latent_views.CONTEXTS_SHOWN)
        shown: dict[str, Any] = {
            "latent": found, "bands": latent_views.bands(build, found, window, most), "window": window,
            "newlines": nl == "1", "windows": tuple(w for w in WINDOWS if w != "snippet"), "query": query,
            "n_contexts": most, "more": most + latent_views.CONTEXTS_SHOWN,
            "bin": latent_views.bin_contexts(build, found, window, whole_number(bin))}
        shown["items"] = shown_items(sae, build, {band.key: band.rows for band in shown["bands"]})
        zooms = {name: Zoom.read(request, name) for name in ("acts", "logits")}
        target = request.headers.get("HX-Target")
        if target == "contexts":
            return of_build(render(request, "explore/_contexts.html", sae=sae, **shown), build, request)
        if target in zooms:
            chart = (latent_views.logit_chart(found, build.meta, zooms[target]) if target == "logits"
                     else _activation_chart(request, found, build, zooms[target], shown["bin"]))
            return of_build(fragment(chart), build, request)
        adds, removes = latent_views.logit_lines(build, found)
        stored = written.about(db, sae.id, found.latent)
        label = labels.get(db, sae.id, found.latent) if stored.label else None
        shown |= {
            "label": label, "adds": adds, "removes": removes, "flag_names": FLAG_NAMES,
            "activation_chart": latent_views.activation_chart(found, build.meta) if embed == "1" else (
                _activation_chart(request, found, build, zooms["acts"], shown["bin"])),
            "rule": rule_words(found.rule, build.vocabulary)}
        if embed == "1":
            response = page(request, "explore/embed.html", sae, build.meta, **shown)
            response.headers["Content-Security-Policy"] = CSP_EMBED
            return response
        stars = starred(request, db, user, sae.id)
        before, after = _sides(query, build, db, sae, found.latent, stars)
        fires_on, followed_by = latent_views.firing_lines(build, found)
        return page(
            request, "explore/latent.html", sae, build.meta, section="latents", **shown, before=before, after=after,
            earlier=labels.earlier(db, sae.id, found.latent) if stored.earlier else [],
            explanations=build.explanations(found.latent),
            exports=links_of_latent(sae, found.latent), fires_on=fires_on, followed_by=followed_by,
            flag_words=FLAG_WORDS, logit_chart=latent_views.logit_chart(found, build.meta, zooms["logits"]),
            relations=relations(build, found, explanations.names(db, sae.id, related_latents(found)) if (
                stored.any_explained) else {}),
            explained=explanations_of(
                db, sae, found.latent, user, known_empty=not (stored.explanations or stored.scores)), failed="",
            starred=found.latent in stars,
            comments=comments.of_latent(db, sae.id, found.latent) if stored.comments else [],
            in_lists=lists.with_latent(db, sae.id, found.latent) if stored.listed else [])


def _activation_chart(
    request: Request, latent: Latent, build: Build, zoom: Zoom, chosen: latent_views.Bin | None,
) -> Markup:
    """Draw the activations with bars that lead to the contexts of their bin."""
    rest = urlencode([(key, value) for key, value in request.query_params.multi_items() if key != "bin"])
    base = f"{request.url.path}?{rest}&bin=" if rest else f"{request.url.path}?bin="
    return latent_views.activation_chart(
        latent, build.meta, zoom, bin_href=lambda number: f"{base}{number}#contexts",
        chosen=chosen.number if chosen else None)


def _sides(
    query: ListQuery, build: Build, db: Session, sae: Sae, latent: int, stars: frozenset[int],
) -> tuple[int | None, int | None]:
    """Return the latents before and after it in the list of `query`, or by number if it is not in that list."""
    if replace(query, columns=()) != ListQuery():
        asked = resolve(query, build, db, sae.id, stars)
        before, after = build.around(latent, asked.key, asked.descending, asked.filters, asked.token)
        if before is not None or after is not None:
            return before, after
    return build.around(latent)


@router.get("/{model}/{name}/{number}/source/{ctx}.json")
def source_json(
    request: Request, model: str, name: str, number: str, ctx: PathNumber, catalog: CatalogDep, builds: BuildsDep,
    workspace: WorkspaceDep, first: QueryNumber | None = None,
) -> Response:
    """Return the token ids of a context's document around the context, with the activations that are known."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        view = _document(sae, build, workspace, _find_latent(build, sae, number), ctx, first)
        return json_response(request, sae, build, lambda: {
            "document": view.name, "first": view.first, "last": view.last, "n": view.n, "known": view.known,
            "at": view.place.token if view.place else None,
            "tokens": view.tokens, "acts": view.acts}, build_only=False)


@router.get("/{model}/{name}/{number}/source/{ctx}")
def source_document(
    request: Request, model: str, name: str, number: str, ctx: PathNumber, catalog: CatalogDep, builds: BuildsDep,
    workspace: WorkspaceDep, first: QueryNumber | None = None,
) -> Response:
    """Show the document of a context, around the context."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        latent = _find_latent(build, sae, number)
        view = _document(sae, build, workspace, latent, ctx, first)
        return page(request, "explore/document.html", sae, build.meta, section="latents", latent=latent, ctx=ctx,
                    view=view, window=WINDOW)


def _document(
    sae: Sae, build: Build, workspace: Workspace, latent: Latent, ctx: int, first: int | None,
) -> DocumentView:
    try:
        return document_view(build, open_corpus(build, workspace), latent, ctx, first)
    except UserError as error:
        raise NotHere(str(error), (f"Latent {latent.latent}", f"/{sae.id}/{latent.latent}")) from None


async def label_form(request: Request) -> dict[str, str]:
    """Return the fields of the form that it contains, also empty ones, which a `Form()` parameter drops."""
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


@router.post("/{model}/{name}/{number}/label")
def write_label(
    request: Request, model: str, name: str, number: str, db: SessionDep, catalog: CatalogDep, user: EditorDep,
    form: Annotated[dict[str, str], Depends(label_form)],
) -> Response:
    """Store label, note or tags; a field that is not in the form stays unchanged.

    `seen` is the version that the form was filled from.  Where somebody replaced it, nothing is stored and the answer
    (409) shows both.  `star` has an address of its own now and is accepted here for one release.
    """
    sae = find_sae(catalog, model, name)
    latent = latent_number(sae, number)
    written = {field: form.get(field) for field in ("text", "note", "tags")}
    theirs = None
    if "star" in form:
        put_star(request, Response(), db, user, sae.id, latent, on=form["star"] == "1")
    try:
        label = labels.save(db, sae.id, latent, user.name, **written, seen=whole_number(form.get("seen", "")))
    except labels.LabelConflict as conflict:
        theirs = conflict.theirs
        mine = {field: getattr(theirs, field) if value is None else value for field, value in written.items()}
        label = Label(**mine, author="", version=theirs.version)
    if theirs is None and not is_htmx(request):
        return RedirectResponse(f"/{sae.id}/{latent}", 303)
    return render(
        request, "explore/_label.html" if is_htmx(request) else "explore/label_conflict.html", 409 if theirs else 200,
        current_sae=sae, section="latents", sae=sae, number=latent, label=label, saved=theirs is None, theirs=theirs,
        earlier=labels.earlier(db, sae.id, latent))


def _find_latent(build: Build, sae: Sae, number: str) -> Latent:
    found = build.latent(latent_number(sae, number))
    if found is None:
        said = "the imported file has no row for it" if sae.is_dashboard else "rebuild the index"
        raise HTTPException(404, f"Build {build.id} has no latent {number} of {sae.id}: {said}.")
    return found
