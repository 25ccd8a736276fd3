"""Earlier runs and inspections of this browser, newest first.

A cookie keeps their ids, so the list needs no account and the server keeps nothing about its visitors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from app.settings import Settings

KEPT = 20
_ID = re.compile(r"[a-z]+-[0-9a-z-]{1,60}")


@dataclass(frozen=True)
class EarlierIds:
    """The ids in one cookie, which the browser sends to the addresses below `path` alone."""

    cookie: str
    path: str

    def read(self, request: Request) -> list[str]:
        """Return the ids that the browser has sent; what is not an id is skipped."""
        words = request.cookies.get(self.cookie, "").split(".")
        return [word for word in words if _ID.fullmatch(word)][:KEPT]

    def with_new(self, request: Request, new: str) -> list[str]:
        """Return the ids with a new one first, each once."""
        return list(dict.fromkeys([new, *self.read(request)]))[:KEPT]

    def remember(self, request: Request, response: Response, new: str) -> None:
        """Put a new id into the browser's list."""
        settings: Settings = request.app.state.settings
        response.set_cookie(
            self.cookie, ".".join(self.with_new(request, new)), path=self.path, httponly=True, samesite="lax",
            max_age=int(settings.keep_days * 86_400), secure=settings.secure_cookies or request.url.scheme == "https")


STEERED = EarlierIds("saescope_steered", "/steer")
INSPECTED = EarlierIds("saescope_inspected", "/inspect")
