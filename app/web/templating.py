"""Rendering of templates as responses.

A route calls `render(request, "explore/home.html", saes=…)`.  Every template has:

- filters for numbers (`app/render/numbers.py`): `compact whole number fixed percent density one_in
  duration bytes moment`;
- `static('css/base.css')`: the address of a file with the hash of its content, which browsers may
  cache forever;
- `version`, `user` (None when signed out), `may_write` and `may_compute` (what the user may do),
  `nav_saes` (for the switcher), and the following, which a
  route may set: `current_sae` (anything with `.id`), `section` ("latents", "tokens", "steer",
  "runs", "admin"), `json_url` (the address of the page as JSON), `search_text`.

Everything is autoescaped, and an undefined name is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from app.render.context_html import context_html, kwic_html, pieces_html, row_html
from app.render.numbers import FILTERS
from app.render.token_text import visible
from app.resources import STATIC, TEMPLATES
from sae import __version__

_DEFAULTS: dict[str, Any] = {
    "user": None, "may_compute": True, "may_write": False, "here": "/", "nav_saes": (), "current_sae": None,
    "section": "", "json_url": None, "search_text": "",
}


@cache
def static_url(path: str) -> str:
    """Return `/static/<path>?v=<hash of its content>`.  Raises FileNotFoundError."""
    digest = hashlib.sha256((STATIC / path).read_bytes()).hexdigest()[:12]
    return f"/static/{path}?v={digest}"


@cache
def environment() -> Environment:
    """Return the Jinja environment, which is made once."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    env.filters.update(FILTERS, visible=visible, pieces=pieces_html, row_text=row_html, kwic=kwic_html,
                       context=context_html)
    env.globals.update(static=static_url, version=__version__)
    return env


def is_htmx(request: Request) -> bool:
    """Return whether the request comes from htmx, which wants a fragment."""
    return request.headers.get("HX-Request") == "true"


def render(
    request: Request, name: str, status_code: int = 200, headers: Mapping[str, str] | None = None, **context: Any,
) -> HTMLResponse:
    """Render the template `name` as a response."""
    values = {**_DEFAULTS, **_frame(request, status_code), "request": request, **context}
    return fragment(environment().get_template(name).render(values), status_code, dict(headers or {}))


def fragment(html: str, status_code: int = 200, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """Return HTML as a response."""
    response = HTMLResponse(html, status_code, dict(headers or {}))
    # Whole pages and different parts of them share addresses.
    response.headers["Vary"] = "HX-Request, HX-Target"
    return response


def _frame(request: Request, status_code: int) -> dict[str, Any]:
    """Return the values of the top bar.  The page of a server error must not query what might fail again."""
    catalog = getattr(request.app.state, "catalog", None)
    saes = catalog.list_saes() if catalog is not None and status_code < 500 and not is_htmx(request) else ()
    query = request.scope["query_string"].decode("latin-1")
    here = request.scope["path"] + (f"?{query}" if query else "")
    user, settings = getattr(request.state, "user", None), getattr(request.app.state, "settings", None)
    return {"user": user, "here": here,
            "may_compute": user is not None or settings is None or settings.open_to_compute,
            "may_write": user is not None and user.role != "reader",
            "nav_saes": [sae for sae in saes if not sae.hidden]}


def render_to_string(name: str, **context: Any) -> str:
    """Render a partial without a request, for server-sent events."""
    return environment().get_template(name).render({**_DEFAULTS, **context})
