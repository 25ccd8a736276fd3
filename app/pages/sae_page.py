"""What all pages of an SAE share: finding it, its build, provenance, caching, the JSON twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.render.numbers import compact
from app.web.parameters import whole_number
from app.web.templating import render
from sae import __version__
from sae.errors import UserError
from sae.store.build import Build

ARCHITECTURES = {
    "topk": "TopK", "batch_topk": "BatchTopK", "matryoshka": "Matryoshka BatchTopK", "jumprelu": "JumpReLU",
    "gated": "Gated", "relu": "ReLU"}
NORMALIZATIONS = {
    "none": "input as it is", "dataset": "input scaled by one number", "layer_norm": "input layer-normed",
    "layer_norm_std": "input layer-normed", "constant_norm": "input scaled to one norm",
    "centre": "input centred",
}


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


def architecture_name(name: str) -> str:
    return ARCHITECTURES.get(name, name)


def strip(sae: Sae, meta: dict[str, Any] | None) -> list[str]:
    """The provenance strip's words: what was measured, on what, under which conventions."""
    k = f", k = {sae.k}" if sae.k else ""
    words = [sae.model, sae.hook, f"{architecture_name(sae.architecture)}, L = {sae.n_latents:,}{k}"]
    if sae.weightless:
        return [*filter(None, words), *_foreign(sae, meta or {})]
    if meta:
        words += [f"{meta['text']}, {compact(meta['tokens'])} tokens", "BOS not counted"]
    words.append(NORMALIZATIONS.get(sae.config.get("normalize", ""), str(sae.config.get("normalize"))))
    if meta:
        words.append(f"build {meta['build_id']}")
    return words


def _foreign(sae: Sae, meta: dict[str, Any]) -> list[str]:
    """What is known of a dashboard that was computed elsewhere."""
    said = [f"computed elsewhere ({sae.config['imported']['format']})"]
    if meta.get("text"):
        said.append(str(meta["text"]))
    if meta.get("tokens"):
        said.append(f"{compact(meta['tokens'])} tokens")
    return [*said, "no weights here"]


def provenance(sae: Sae, meta: dict[str, Any]) -> dict[str, Any]:
    """The same for programs: every number of the JSON it stands in was made so."""
    kept = ("build_id", "model", "site", "architecture", "n_latents", "k", "theta", "normalize", "text",
            "text_fingerprint", "tokens", "contexts", "bos_rule", "weight_processing", "decoder_norm",
            "saescope_version", "command", "imported")
    return {"sae": sae.id, **{key: meta.get(key) for key in kept}}


def as_json(value: Any) -> Any:
    """Records, sets and tuples as plain JSON values; bytes of tokens as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(as_json(item) for item in value)
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value


def etag(build: Build) -> str:
    """The tag of whatever depends on the build and this program alone."""
    return f'"{build.id}.{__version__}"'


def unchanged(request: Request, build: Build) -> Response | None:
    """304 if the asker has this build's answer already."""
    if etag(build) in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": etag(build), "Vary": "HX-Request, HX-Target"})
    return None


def of_build(response: Response, build: Build, request: Request) -> Response:
    """Mark an answer as depending on the build alone.

    An address that names the build (`?build=…`) never changes its meaning and may be kept for ever.
    """
    response.headers["ETag"] = etag(build)
    forever = request.query_params.get("build") == build.id
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if forever else "no-cache"
    return response


def json_response(
    request: Request, sae: Sae, build: Build, values: Callable[[], dict[str, Any]], build_only: bool = True,
) -> Response:
    """The JSON twin of a page, with its provenance.

    `build_only`: it depends on the build alone, so an asker who has it gets 304 and `values` is not called.
    """
    if build_only and (same := unchanged(request, build)) is not None:
        return same
    response = JSONResponse({"provenance": provenance(sae, build.meta), **as_json(values())})
    return of_build(response, build, request) if build_only else response


def page(request: Request, name: str, sae: Sae, meta: dict[str, Any] | None, **context: Any) -> Response:
    """A page of an SAE: the switcher stands on it, the provenance strip is filled."""
    query = f"?{request.url.query}" if request.url.query else ""
    return render(
        request, name, current_sae=sae, sae=sae, meta=meta, strip=strip(sae, meta),
        **{"json_url": f"{request.url.path}.json{query}", **context})
