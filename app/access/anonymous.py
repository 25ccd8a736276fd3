"""What people may do who are not signed in, by the setting SAESCOPE_ANONYMOUS."""

from __future__ import annotations

from app.access.middleware import SAFE_METHODS, limited_pages
from app.settings import Settings

# Pages that anyone needs to sign in, or that monitoring asks.
_OPEN = frozenset({"login", "logout", "healthz", "readyz", "metrics"})
_COMPUTING = frozenset({"steer", "inspect", "effects"})
# Forms that are of no use without what they start.
_FORMS = ("/steer", "/inspect", "/search/text", "/api/search/text")


def may_visit(settings: Settings, method: str, path: str) -> bool:
    """Return whether a request without a signed-in user is allowed.

    Reads that make the model work look like any other read.  They ask `may_compute` where the work is requested.
    """
    pages = limited_pages(path)
    if settings.anonymous == "compute" or pages in _OPEN:
        return True
    if settings.anonymous == "nothing":
        return False
    return not ((method not in SAFE_METHODS and pages in _COMPUTING) or path.removesuffix(".json") in _FORMS)
