"""Parts that all pages of an SAE share: finding it, its build, its provenance, its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException, Request
from fastapi.responses import Response

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.pages.provenance import provenance_words
from app.web.errors import NotHere, Renamed
from app.web.parameters import whole_number
from app.web.templating import render
from sae.errors import DamagedFile, UserError
from sae.store.build import Build


def find_sae(catalog: Catalog, model: str, name: str) -> Sae:
    """Return the SAE at this address.

    Raises 404 with links to the model's SAEs, 503 if its file is damaged, and Renamed if it has another name now.
    """
    sae = catalog.get_sae(f"{model}/{name}")
    if sae is None:
        if damage := catalog.damaged().get(f"{model}/{name}"):
            raise HTTPException(503, f"{model}/{name} is damaged: {damage}. Restore the file from a backup, or delete "
                                     f"the SAE with: saescope delete {model}/{name}")
        if (now := catalog.renamed(f"{model}/{name}")) is not None:
            raise Renamed(f"{model}/{name}", now)
        others = [(row.id, f"/{row.id}") for row in catalog.list_saes() if row.model == model]
        more = [(f"All SAEs of {model}", f"/{model}")] if others else []
        raise NotHere(f"There is no SAE {model}/{name} here.", *others[:8], *more)
    return sae


def latent_number(sae: Sae, number: str) -> int:
    """Return the latent of an address.  Raises 404 with the valid range and a link to the nearest latent."""
    found = whole_number(number)
    if found is not None and found < sae.n_latents:
        return found
    last = sae.n_latents - 1
    nearest = [(f"Latent {last}", f"/{sae.id}/{last}")] if found is not None else []
    raise NotHere(f"{sae.id} has {sae.n_latents:,} latents, 0 to {last:,}; there is no latent {number[:40]}.", *nearest)


def need_weights(sae: Sae) -> None:
    """Raise 409 for a dashboard made elsewhere, and 503 for damaged weights: nothing can be computed with the SAE."""
    if sae.weights_fault:
        raise HTTPException(503, f"{sae.id} can only be browsed: {sae.weights_fault}. Restore the file from a backup, "
                                 "or train or import the SAE again.")
    if sae.weightless:
        raise HTTPException(409, f"{sae.id} is a dashboard made elsewhere. Its SAE's weights are not here, so it can "
                                 "only be browsed.")


@contextmanager
def open_build(builds: Builds, sae: Sae) -> Iterator[Build]:
    """Return the SAE's newest build that is not damaged.  Raises 404 where it has none or its file is gone.

    Raises DamagedFile, which is answered with 503, where all builds are damaged.
    """
    if sae.current_build is None and sae.is_dashboard:
        raise NotHere(f"The dashboard of {sae.id} is gone; import it again.", ("Add an SAE", "/admin/import"))
    build_it = ("Build its index", f"/admin/index?sae={quote(sae.id, safe='')}")
    if sae.current_build is None:
        raise NotHere(f"{sae.id} has no index of contexts yet, so its latents cannot be browsed. An administrator can "
                      f"build it here, or on the command line: saescope index --sae {sae.id}", build_it)
    try:
        with builds.use(sae.id, sae.current_build) as build:
            yield build
    except DamagedFile:
        raise
    except UserError as error:
        if error.field != "build":
            raise
        said = str(error)
        advice = "" if "saescope index" in said else f". Build a new one with: saescope index --sae {sae.id}"
        raise NotHere(said + advice, build_it) from None


def page(request: Request, name: str, sae: Sae, meta: dict[str, Any] | None, **context: Any) -> Response:
    """Render a page of an SAE, with the SAE in the header and its provenance strip."""
    query = f"?{request.url.query}" if request.url.query else ""
    return render(
        request, name, current_sae=sae, sae=sae, meta=meta, strip=provenance_words(sae, meta),
        **{"json_url": f"{request.url.path}.json{query}", **context})
