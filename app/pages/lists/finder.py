"""The search on a list's page, whose latents can be added to the list."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from app.db.people_tables import LatentList
from app.db.tables import Sae
from app.library import lists
from app.pages.dependencies import Tools
from app.pages.find.latents import Scope, find_latents, numbered
from app.pages.find.phrase import Found, Read, reading

FOUND = 20  # latents that a search lists


@dataclass(frozen=True)
class Finder:
    """The search field with the SAEs to choose from, and what was found (None: nothing was searched)."""

    text: str
    saes: list[Sae]
    current: Sae | None
    found: Found | None
    inside: frozenset[tuple[str, int]]  # latents that the list has already


def finder(tools: Tools, one: LatentList, scope: Scope, text: str, read: Read | None) -> Finder:
    """Search for latents to add to a list."""
    inside = frozenset((member.sae_id, member.latent) for member in lists.members(tools.db, one.id))
    found = None
    if text:
        chosen = {"within": scope.current.id} if scope.current else {}
        place = f"/lists/{one.id}?{urlencode({'q': text, **chosen, 'read': 1})}"
        active = numbered(scope.chosen, text, read.active if read else {})
        found = Found(find_latents(tools.db, tools.builds, scope.chosen, text, FOUND, active),
                      reading(scope, text, place, read))
    return Finder(text, scope.every, scope.current, found, inside)
