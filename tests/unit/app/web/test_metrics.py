"""Tests of the metrics of requests: counted by the route's pattern."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.web.metrics import REGISTRY, CountRequests, route_pattern


def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("x", 201)


def count(route: str, status: str) -> float:
    labels = {"method": "GET", "route": route, "status": status}
    return REGISTRY.get_sample_value("saescope_requests_total", labels) or 0.0


def test_a_request_is_counted_with_its_status() -> None:
    client = TestClient(Starlette(routes=[Route("/x/{y}", answer)], middleware=[Middleware(CountRequests)]))
    before = count("(none)", "201") + count("/x/{y}", "201"), count("(none)", "404")
    for path in ("/x/1", "/x/2", "/y"):
        client.get(path)
    after = count("(none)", "201") + count("/x/{y}", "201"), count("(none)", "404")
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)
    assert (REGISTRY.get_sample_value("saescope_request_seconds_count", {"route": "(none)"}) or 0) >= 1


def test_addresses_share_the_pattern_of_their_route() -> None:
    route = Route("/runs/{run_id}", answer)
    assert route_pattern({"path": "/runs/7", "route": route}) == "/runs/{run_id}"
    assert route_pattern({"path": "/runs/7"}) == "(none)"
    assert route_pattern({"path": "/static/css/a.css", "route": route}) == "/static"
