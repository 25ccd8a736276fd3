"""The JSON twin of a page."""

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
    response = JSONResponse({"provenance": provenance(sae, build.meta), **to_jsonable_python(values())})
    return of_build(response, build, request) if build_only else response
