"""Parts that all pages of an SAE share: finding it, its build, its provenance, its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import Response

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.pages.provenance import provenance_words
from app.web.parameters import whole_number
from app.web.templating import render
from sae.errors import UserError
from sae.store.build import Build


def find_sae(catalog: Catalog, model: str, name: str) -> Sae:
    """The SAE at this address.  Raises 404, naming those there are under the model."""
    sae = catalog.get_sae(f"{model}/{name}")
    if sae is None:
        others = [row.id for row in catalog.list_saes() if row.model == model]
        there = f"Under {model} there are: {', '.join(others[:8])}." if others else "See the home page for all SAEs."
        raise HTTPException(404, f"There is no SAE {model}/{name} here. {there}")
    return sae


def latent_number(sae: Sae, number: str) -> int:
    """The latent of an address.  Raises 404, which names the valid range and the nearest number."""
    found = whole_number(number)
    if found is not None and found < sae.n_latents:
        return found
    last = sae.n_latents - 1
    near = f" The nearest is /{sae.id}/{last}." if found is not None else ""
    raise HTTPException(
        404, f"{sae.id} has {sae.n_latents:,} latents, 0 to {last}; there is no latent {number[:40]}.{near}")


def need_weights(sae: Sae) -> None:
    """Raise 409 for a dashboard made elsewhere: nothing can be computed with an SAE whose weights are not here."""
    if sae.weightless:
        raise HTTPException(409, f"{sae.id} is a dashboard made elsewhere: its SAE's weights are not here, so it can "
                                 "only be browsed.")


@contextmanager
def open_build(builds: Builds, sae: Sae) -> Iterator[Build]:
    """The SAE's newest build.  Raises 404 where it has none yet, or its file is gone or damaged."""
    if sae.current_build is None and sae.weightless:
        raise HTTPException(404, f"The dashboard of {sae.id} is gone; import it again.")
    if sae.current_build is None:
        raise HTTPException(404, f"{sae.id} has no feature index yet. Make one with: saescope index --sae {sae.id}")
    try:
        with builds.use(sae.id, sae.current_build) as build:
            yield build
    except UserError as error:
        if error.field != "build":
            raise
        said = str(error)
        advice = "" if "saescope index" in said else f". Make a new one with: saescope index --sae {sae.id}"
        raise HTTPException(404, said + advice) from None


def page(request: Request, name: str, sae: Sae, meta: dict[str, Any] | None, **context: Any) -> Response:
    """A page of an SAE: the switcher stands on it, the provenance strip is filled."""
    query = f"?{request.url.query}" if request.url.query else ""
    return render(
        request, name, current_sae=sae, sae=sae, meta=meta, strip=provenance_words(sae, meta),
        **{"json_url": f"{request.url.path}.json{query}", **context})
