"""SAEs by their former names in the query of an address; paths are redirected by `app.pages.sae_page`."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Receive, Scope, Send

from app.library.catalog import Catalog

PARAMETERS = frozenset({"sae", "a", "b", "with", "add_sae"})  # each names an SAE as <model>/<name>


class FormerNames:
    """Middleware that replaces the former name of an SAE in the query of a request by the present one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query: bytes = scope.get("query_string", b"")
        if b"/" in query or b"%2" in query:
            catalog: Catalog | None = getattr(scope["app"].state, "catalog", None)
            if catalog is not None and catalog.any_renamed():
                scope = {**scope, "query_string": with_present_names(query, catalog)}
        await self.app(scope, receive, send)


def with_present_names(query: bytes, catalog: Catalog) -> bytes:
    """Return the query string with present names; one without a former name stays as it is, byte by byte."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
    present = [(name, catalog.present_id(value) if name in PARAMETERS else value) for name, value in pairs]
    return query if present == pairs else urlencode(present, errors="surrogateescape").encode()
