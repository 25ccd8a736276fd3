"""Latents per token: how many active latents each token needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.latent_names import names_of
from app.pages.dependencies import BuildsDep, CatalogDep, SessionDep
from app.pages.explore import l0_views, sae_views
from app.pages.json_twin import json_response
from app.pages.provenance import first_position, training_tokens, training_warning
from app.pages.sae_page import find_sae, open_build, page
from app.render.token_text import token_label
from app.render.zoom import Zoom
from app.web.parameters import PathNumber
from app.web.templating import fragment, is_htmx, render
from sae.errors import UserError
from sae.store.build import Build
from sae.store.records import Sample

router = APIRouter(include_in_schema=False)

SAMPLES_SHOWN = 8


@router.get("/{model}/{name}/tokens.json")
def tokens_json(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    """Return the numbers of the page; `others` has the numbers of the SAEs that `with` names."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build, _overlaid(catalog, builds, sae, request) as others:
        return json_response(request, sae, build, lambda: {
            **_numbers(build), "most": build.l0_tokens(True), "fewest": build.l0_tokens(False),
            "samples": build.samples(), "others": {one.id: _numbers(other) for one, other in others}},
            build_only=not others)


def _numbers(build: Build) -> dict[str, Any]:
    return {"bos_l0": build.meta.get("bos_l0"), "hist": build.l0_hist(), "positions": build.l0_positions()}


@contextmanager
def _overlaid(catalog: Catalog, builds: Builds, sae: Sae, request: Request) -> Iterator[list[tuple[Sae, Build]]]:
    """Open the builds of the SAEs that `?with=<sae>` overlays; the parameter may be given several times."""
    with ExitStack() as stack:
        found = []
        for one in l0_views.counterparts(catalog, sae, request.query_params.getlist("with")):
            with suppress(UserError):  # deleted in the meantime: the page is shown without it
                found.append((one, stack.enter_context(builds.use(one.id, str(one.current_build)))))
        yield found


@router.get("/{model}/{name}/tokens")
def show_tokens(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    """Show the page of latents per token; `?with=<sae>` overlays other SAEs of the same site."""
    sae = find_sae(catalog, model, name)
    limit = None if request.query_params.get("samples") == "all" else SAMPLES_SHOWN
    with open_build(builds, sae) as build, _overlaid(catalog, builds, sae, request) as others:
        rows, bos = build.l0_hist(), build.meta.get("bos_l0")
        if not rows:
            return page(request, "explore/unknown.html", sae, build.meta, section="tokens", title="Latents per token",
                        said=f"{sae.id} was imported from a file that does not say how many latents each token needs.")
        named = {sae_views.l0_label(sae): build} | {sae_views.l0_label(one): other for one, other in others}
        zoom = Zoom.read(request, "l0")
        chart = sae_views.l0_chart(
            rows, sae, bos, others=[(sae_views.l0_label(one), other.l0_hist()) for one, other in others],
            width=800, height=280, title="", zoom=zoom, first=first_position(build.meta))
        if request.headers.get("HX-Target") == zoom.name:
            return fragment(chart)
        mean, spread = l0_views.mean_and_spread(rows)
        most, fewest = l0_views.extremes(build)
        first, first_build = others[0] if others else (None, None)
        samples = l0_views.Samples.read(build, first_build)
        metrics = sae.config.get("metrics") or {}
        return page(
            request, "explore/l0.html", sae, build.meta, section="tokens", others=[one for one, _ in others],
            other=first, chart=chart, mean=mean, spread=spread, most=most, fewest=fewest,
            l0_held_out=metrics.get("l0"), held_out_tokens=metrics.get("tokens"),
            theta=sae.config.get("threshold") or {},
            bos_words=l0_views.bos_words(bos, sae.k, first_position(build.meta)),
            first_position=first_position(build.meta),
            warning=training_warning([sae, *(one for one, _ in others)]), most_others=l0_views.MOST_OTHERS,
            peers=[(peer, training_tokens(peer)) for peer in l0_views.peers_of(catalog, sae)],
            positions=l0_views.position_chart(named), fvu_chart=l0_views.fvu_chart(named),
            by_density=l0_views.by_density_chart(build), samples=samples.texts("any", limit),
            n_samples=samples.count("any"), few=samples.texts("fewest"), many=samples.texts("most"))


@router.get("/{model}/{name}/tokens/{sample}/{position}.json")
def token_json(
    request: Request, model: str, name: str, sample: PathNumber, position: PathNumber, catalog: CatalogDep,
    builds: BuildsDep,
) -> Response:
    """Return the strongest latents of one token of a sample."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        _find_sample(build, sample, position)
        return json_response(request, sae, build, lambda: {
            "sample": sample, "position": position, "latents": build.sample_latents(sample, position)})


@router.get("/{model}/{name}/tokens/{sample}/{position}")
def show_token(
    request: Request, model: str, name: str, sample: PathNumber, position: PathNumber, db: SessionDep,
    catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    """Show the latents of one token of a sample as bars: a fragment for htmx, else a page."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        found = _find_sample(build, sample, position)
        names = names_of(db, build, sae.id, [latent for latent, _ in build.sample_latents(sample, position)])
        token = build.vocabulary[found.tokens[position]]
        context: dict[str, Any] = {
            "sample": found, "position": position, "token_label": token_label(token), "l0": found.l0[position],
            "firings": l0_views.firings(build, sample, position, names)}
        if is_htmx(request):
            return render(request, "explore/_l0_token_latents.html", sae=sae, **context)
        return page(request, "explore/l0_token.html", sae, build.meta, section="tokens", **context)


def _find_sample(build: Build, sample: int, position: int) -> Sample:
    """Return the sample of this number.  Raises 404 if there is none or it is too short."""
    found = next((row for row in build.samples() if row.sample == sample), None)
    if found is None or position >= len(found.tokens):
        raise HTTPException(404, f"Build {build.id} has no position {position} in a sample {sample}.")
    return found
