"""Tests of the ids that a browser keeps in its cookie."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi import Request
from fastapi.responses import Response

from app.pages.earlier import KEPT, STEERED
from app.settings import Settings


def request(cookie: str, scheme: str = "http") -> Request:
    app = SimpleNamespace(state=SimpleNamespace(settings=Settings(database_url="")))
    return Request({"type": "http", "method": "GET", "path": "/steer", "query_string": b"", "scheme": scheme,
                    "server": ("here", 80),
                    "headers": [(b"cookie", f"{STEERED.cookie}={cookie}".encode())], "app": app})


@pytest.mark.parametrize(("cookie", "ids"), [
    ("steer-1.steer-2a", ["steer-1", "steer-2a"]), ("", []), ("steer-1..", ["steer-1"]),
    ("steer-x.../../etc.%00.Steer-1.steer-é", ["steer-x"]), ("steer-" + "a" * 61, [])])
def test_what_is_no_id_is_skipped(cookie: str, ids: list[str]) -> None:
    assert STEERED.read(request(cookie)) == ids


def test_a_new_id_comes_first_each_is_kept_once_and_few_are_kept() -> None:
    many = [f"steer-{i}" for i in range(KEPT + 5)]
    assert STEERED.read(request(".".join(many))) == many[:KEPT]
    assert STEERED.with_new(request("steer-1.steer-2"), "steer-2") == ["steer-2", "steer-1"]
    assert STEERED.with_new(request(".".join(many)), "steer-new") == ["steer-new", *many[: KEPT - 1]]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_only_pages_below_the_path_get_the_cookie(scheme: str) -> None:
    response = Response()
    STEERED.remember(request("steer-1", scheme), response, "steer-2")
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("saescope_steered=steer-2.steer-1;")
    assert {"Path=/steer", "HttpOnly", "SameSite=lax"} <= set(cookie.split("; "))
    assert ("Secure" in cookie) == (scheme == "https")
