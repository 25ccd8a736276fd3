"""The JSON of a page, and its caching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_jsonable_python

from app.db.tables import Sae
from app.pages.provenance import provenance
from sae import __version__
from sae.store.build import Build


def etag(build: Build) -> str:
    """Return the ETag of answers that depend only on the build and this program's version."""
    return f'"{build.id}.{__version__}"'


def unchanged(request: Request, build: Build) -> Response | None:
    """Return 304 if the client already has this build's answer, else None."""
    if etag(build) in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": etag(build), "Vary": "HX-Request, HX-Target"})
    return None


def of_build(response: Response, build: Build, request: Request) -> Response:
    """Mark an answer as depending only on the build.

    An address that names the build (`?build=…`) never changes its meaning, so clients may keep its answer for ever.
    """
    response.headers["ETag"] = etag(build)
    forever = request.query_params.get("build") == build.id
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if forever else "no-cache"
    return response


def json_response(
    request: Request, sae: Sae, build: Build, values: Callable[[], dict[str, Any]], build_only: bool = True,
) -> Response:
    """Return the JSON of a page, with its provenance.

    With `build_only` the answer depends only on the build: a client that has it gets 304, and `values` is not called.
    """
    if build_only and (same := unchanged(request, build)) is not None:
        return same
    response = JSONResponse({"provenance": provenance(sae, build.meta), **to_jsonable_python(values())})
    return of_build(response, build, request) if build_only else response
