"""Latents per token: how many active latents each token needs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from app import l0views, labels, saeviews
from app.deps import BuildsDep, CatalogDep, SessionDep
from app.saepages import architecture_name, find_sae, json_response, open_build, page
from app.templating import is_htmx, render
from app.tokens_view import token_label
from sae.errors import UserError

router = APIRouter(include_in_schema=False)

SAMPLES_SHOWN = 8


@router.get("/{model}/{name}/tokens.json")
def tokens_json(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        return json_response(request, sae, build, lambda: {
            "bos_l0": build.meta.get("bos_l0"), "hist": build.l0_hist(), "positions": build.l0_positions(),
            "most": build.l0_tokens(True), "fewest": build.l0_tokens(False), "samples": build.samples()})


@router.get("/{model}/{name}/tokens")
def show_tokens(request: Request, model: str, name: str, catalog: CatalogDep, builds: BuildsDep) -> Response:
    """The whole picture; `?with=<sae>` lays another SAE of the same site over it."""
    sae = find_sae(catalog, model, name)
    other = l0views.counterpart(catalog, sae, request.query_params.get("with"))
    limit = None if request.query_params.get("samples") == "all" else SAMPLES_SHOWN
    with open_build(builds, sae) as build, ExitStack() as stack:
        beside = None
        if other is not None:
            try:
                beside = stack.enter_context(builds.use(other.id, str(other.current_build)))
            except UserError:  # gone in the meantime: the page stands without it
                other = None
        rows, bos = build.l0_hist(), build.meta.get("bos_l0")
        if not rows:
            return page(request, "pages/unknown.html", sae, build.meta, section="tokens", title="Latents per token",
                        said=f"{sae.id} was imported from a file that does not say how many latents each token needs.")
        total = sum(row.n for row in rows) or 1
        mean = sum(row.l0 * row.n for row in rows) / total
        spread = (sum(row.n * (row.l0 - mean) ** 2 for row in rows) / total) ** 0.5
        most, fewest = l0views.extremes(build)
        names = [architecture_name(one.architecture) for one in (sae, other) if one]
        chart = saeviews.l0_chart(
            rows, sae, bos, other=other, other_rows=beside.l0_hist() if beside else None, width=800, height=280,
            title="")
        return page(
            request, "pages/tokens.html", sae, build.meta, section="tokens", other=other, chart=chart, mean=mean,
            spread=spread, bos_words=l0views.bos_words(bos, sae.k), most=most, fewest=fewest, names=names,
            peers=l0views.peers_of(catalog, sae), positions=l0views.position_chart(build, beside, names),
            fvu_chart=l0views.fvu_chart(build, beside, names), by_density=l0views.by_density_chart(build),
            samples=l0views.samples(build, beside, limit), n_samples=len(build.samples()))


@router.get("/{model}/{name}/tokens/{sample}/{position}.json")
def token_json(
    request: Request, model: str, name: str, sample: int, position: int, catalog: CatalogDep, builds: BuildsDep,
) -> Response:
    """The strongest latents of one token of a sample."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        return json_response(request, sae, build, lambda: {
            "sample": sample, "position": position, "latents": build.sample_latents(sample, position)})


@router.get("/{model}/{name}/tokens/{sample}/{position}")
def show_token(
    request: Request, model: str, name: str, sample: int, position: int, db: SessionDep, catalog: CatalogDep,
    builds: BuildsDep,
) -> Response:
    """One token of a sample: its latents as bars.  A fragment for htmx, a page otherwise."""
    sae = find_sae(catalog, model, name)
    with open_build(builds, sae) as build:
        found = next((row for row in build.samples() if row.sample == sample), None)
        if found is None or not 0 <= position < len(found.tokens):
            raise HTTPException(404, f"Build {build.id} has no position {position} in a sample {sample}.")
        written = labels.of_latents(db, sae.id, [latent for latent, _ in build.sample_latents(sample, position)])
        token = build.token_info([found.tokens[position]])[found.tokens[position]]
        context: dict[str, Any] = {
            "sample": found, "position": position, "token_label": token_label(token), "l0": found.l0[position],
            "firings": l0views.firings(build, sample, position, {i: row.text for i, row in written.items()})}
        if is_htmx(request):
            return render(request, "pages/_token_latents.html", sae=sae, **context)
        return page(request, "pages/token.html", sae, build.meta, section="tokens", **context)
