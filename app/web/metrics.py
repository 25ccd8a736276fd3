"""The metrics at /metrics, in a registry that has only the program's own measures.

Requests are counted by the route's pattern and not by the address, so that there are few series.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REGISTRY = CollectorRegistry()
REQUESTS = Counter("saescope_requests", "Requests answered", ["method", "route", "status"], registry=REGISTRY)
SECONDS = Histogram(
    "saescope_request_seconds", "Seconds until the answer began", ["route"], registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10))
RUNS = Gauge("saescope_runs", "Runs by state", ["state"], registry=REGISTRY)
SAES = Gauge("saescope_saes", "SAEs in the workspace", registry=REGISTRY)
BUILDS = Gauge("saescope_saes_with_build", "SAEs that have a build", registry=REGISTRY)
USERS = Gauge("saescope_login_sessions", "Browsers signed in", registry=REGISTRY)
STEERS = Gauge("saescope_steer_runs", "Steering requests stored, by state", ["state"], registry=REGISTRY)
UP_SINCE = Gauge("saescope_start_time_seconds", "When the server started", registry=REGISTRY)
UP_SINCE.set_to_current_time()


class CountRequests:
    """Middleware that counts responses and measures the time to their first byte."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = route_pattern(scope)
                REQUESTS.labels(scope["method"], route, str(message["status"])).inc()
                SECONDS.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, counted)


def route_pattern(scope: Scope) -> str:
    """Return the pattern of the request's route, such as `/runs/{run_id}`, or `(none)` if no route matched."""
    if scope["path"].startswith("/static/"):
        return "/static"
    return str(getattr(scope.get("route"), "path", "(none)"))
