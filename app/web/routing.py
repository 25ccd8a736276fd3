"""Routers that look at their routes only if the path can be one of theirs.

Every request is compared with the routes of all modules until one fits.  The pages of an SAE come last, because
`/{model}/{sae}` fits any path of two segments, so they would pay for all others.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.routing import Match
from starlette.types import Scope


def match_by_first_segment(router: APIRouter) -> None:
    """Let a router match only paths whose first segment one of its routes has.

    A router with a route that begins with a parameter stays as it is.
    """
    firsts = {str(getattr(route, "path", "/{}")).split("/")[1] for route in router.routes}
    if any("{" in first for first in firsts) or "matches" in vars(router):
        return
    matches = router.matches

    def quick(scope: Scope) -> tuple[Match, Scope]:
        if not scope.get("root_path") and scope["path"].partition("/")[2].partition("/")[0] not in firsts:
            return Match.NONE, {}
        return matches(scope)

    router.matches = quick  # type: ignore[method-assign]
