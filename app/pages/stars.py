"""The stars of a reader: in the database for signed-in users, otherwise in a cookie of the browser.

The cookie has the numbers of an SAE's starred latents and is sent to that SAE's pages alone.  So a visitor needs no
account for stars, and the server keeps nothing about visitors.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.db.tables import User
from app.library import stars
from app.web.parameters import whole_number

COOKIE = "saescope_stars"
KEPT = 400  # the newest ones; a browser accepts cookies of about 4,000 bytes
_YEAR_S = 365 * 86_400


def starred(request: Request, db: Session, user: User | None, sae_id: str) -> frozenset[int]:
    """Return the latents of an SAE that the user, or else this browser, has starred."""
    return stars.of_user(db, user, sae_id) if user is not None else frozenset(_of_browser(request))


def star(
    request: Request, response: Response, db: Session, user: User | None, sae_id: str, latent: int, *, on: bool
) -> None:
    """Star a latent or remove its star, and commit."""
    if user is not None:
        stars.put(db, user, sae_id, latent, on=on)
        db.commit()
        return
    kept = [number for number in _of_browser(request) if number != latent]
    kept = [latent, *kept][:KEPT] if on else kept
    response.set_cookie(
        COOKIE, ".".join(map(str, kept)), path=f"/{sae_id}", httponly=True, samesite="lax",
        max_age=_YEAR_S if kept else 0,
        secure=request.app.state.settings.secure_cookies or request.url.scheme == "https")


def _of_browser(request: Request) -> list[int]:
    found = [whole_number(word) for word in request.cookies.get(COOKIE, "")[:4000].split(".")[:KEPT]]
    return list(dict.fromkeys(number for number in found if number is not None))
