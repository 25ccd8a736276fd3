"""Tests of headers, the same-origin rule and rate limits, and that signed-out visitors cannot change anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.responses import StreamingResponse

from app.access import accounts
from app.access.middleware import CSP, SAFE_METHODS, HeadAsGet, TokenBuckets, first_segment, limited_pages, same_origin
from app.pages.dependencies import admin_user, signed_in_user
from app.settings import Settings
from sae.errors import UserError

# Unsafe methods that need no sign-in, and why that is right.
OPEN = {
    "/login": "it is the sign-in; bounded by a rate limit",
    "/logout": "it ends only the session of the browser that asks",
    "/{model}/{name}/{number}/star": "a visitor's star is a cookie of the visitor's browser",
}
# Steering, inspecting and measuring effects change nothing but their own stored results, and readers with a link may
# do them; they are bounded by a rate limit and by the model worker's queue.
OPEN_PREFIX = ("/steer", "/inspect", "/effects", "/api/steer", "/api/inspect", "/api/search",
               "/api/effects")


def _routes(router: Any, prefix: str = "") -> Iterator[tuple[str, APIRoute]]:
    """Yield every route of the tree with its full path."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if isinstance(route, APIRoute):
            yield prefix + route.path, route
        elif inner is not None:
            yield from _routes(inner, prefix + getattr(route.include_context, "prefix", ""))


def _guards(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _guards(inner)


def test_nothing_changes_signed_out(client: TestClient) -> None:
    unsafe = [
        (path, route) for path, route in _routes(client.app) if (route.methods or set()) - SAFE_METHODS]
    assert {"/runs/{run_id}/delete", "/api/runs", "/admin/{kind}", "/login"} <= {path for path, _ in unsafe}
    unguarded = {path for path, route in unsafe if not {admin_user, signed_in_user} & set(_guards(route.dependant))}
    assert {path for path in unguarded if not path.startswith(OPEN_PREFIX)} == set(OPEN)


def test_unsafe_requests_signed_out_are_refused(client: TestClient) -> None:
    """Send a request to every unsafe route that is not open; each answers 401."""
    asked = 0
    for path, route in _routes(client.app):
        if path in OPEN or path.startswith(OPEN_PREFIX):
            continue
        for method in (route.methods or set()) - SAFE_METHODS:
            address = path
            for name in route.param_convertors:
                address = address.replace(f"{{{name}}}", "train" if name == "kind" else "1")
            assert client.request(method, address).status_code == 401, (method, path)
            asked += 1
    assert asked >= 8


def test_admin_pages_lead_to_the_form_and_back(client: TestClient) -> None:
    answer = client.get("/admin/train?preset=quick")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/admin/train%3Fpreset%3Dquick")


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing/here", "/static/css/base.css", "/api/saes"])
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"] == CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CSP


@pytest.mark.parametrize(("headers", "allowed"), [
    ({}, True),  # no browser
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "http://here:8000"}, False),
    ({"origin": "http://here:8000"}, True),
    ({"origin": "http://here:9000"}, False),
    ({"origin": "https://here:8000"}, False),
    ({"origin": "http://evil.example"}, False),
    ({"origin": "null"}, False),
    ({"origin": "http://here:8000:1"}, False),
    ({"origin": "https://public.example"}, True),  # trusted by the setting
    ({"sec-fetch-site": "cross-site", "origin": "https://public.example"}, True),
])
def test_same_origin(headers: dict[str, str], allowed: bool) -> None:
    given = Headers({"host": "here:8000", **headers})
    assert same_origin("http", given, frozenset({"https://public.example"})) is allowed


def test_the_usual_port_may_be_left_out() -> None:
    assert same_origin("http", Headers({"host": "here", "origin": "http://here:80"}))
    assert not same_origin("http", Headers({"host": "here", "origin": "https://here"}))


def test_another_site_cannot_post(admin: TestClient) -> None:
    run = {"kind": "train", "spec": {}}
    assert admin.post("/api/runs", json=run, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert admin.get("/api/runs").json() == []
    assert admin.post("/api/runs", json=run, headers={"sec-fetch-site": "same-origin"}).status_code == 201


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 10), st.integers(1, 120))
def test_a_bucket_never_gives_more_than_burst_and_rate(gaps: list[float], burst: int, per_minute: int) -> None:
    buckets = TokenBuckets(per_minute, burst)
    now, given = 0.0, 0
    for gap in gaps:
        now += gap
        given += buckets.take("someone", now) == 0
        assert given <= burst + now * per_minute / 60 + 1e-6


def test_the_returned_wait_is_enough_and_others_are_not_held_up() -> None:
    buckets = TokenBuckets(6, burst=1)
    assert buckets.take("a", 0) == 0
    wait = buckets.take("a", 0)
    assert wait == pytest.approx(10)
    assert buckets.take("b", 0) == 0
    assert buckets.take("a", wait + 0.001) == 0


def test_strangers_do_not_fill_the_memory() -> None:
    buckets = TokenBuckets(1, max_keys=3)
    for i in range(100):
        buckets.take(str(i), 0)
    assert len(buckets._full) == 3


def test_sign_in_is_rate_limited(settings: Settings) -> None:
    from app.main import create_app

    slow = settings.model_copy(update={"logins_per_minute": 2})
    with TestClient(create_app(slow, supervise=False)) as client:
        answers = [client.post("/login", data={"name": "a", "password": "b"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert int(answers[2].headers["retry-after"]) > 0
        assert client.get("/login?token=guess").status_code == 429
        assert client.get("/login").status_code == 200


@pytest.mark.parametrize(("proxies", "scheme", "counted"), [
    ("", "http", True), ("192.0.2.7", "http", True), ("127.0.0.1", "https", False), ("127.0.0.1/8", "https", False)])
def test_forwarded_headers_count_only_from_a_named_proxy(
    settings: Settings, proxies: str, scheme: str, counted: bool
) -> None:
    """Check that a client on this machine cannot choose the address that its sign-in attempts are counted under."""
    from app.cli import server_config
    from app.main import create_app

    behind = settings.model_copy(update={"trusted_proxies": proxies, "logins_per_minute": 2})
    config = server_config(create_app(behind, supervise=False), behind)
    config.load()
    with TestClient(config.loaded_app, client=("127.0.0.1", 1), follow_redirects=False) as client:
        answers = [
            client.post("/login", data={"name": "a"}, headers={
                "x-forwarded-for": f"203.0.113.{i}", "x-forwarded-proto": "https"}) for i in range(3)]
        assert (answers[2].status_code == 429) is counted
        secure = client.get("/static/none", headers={"x-forwarded-proto": "https", "host": "127.0.0.1"})
        assert secure.status_code == 404
        with config.app.state.sessions() as db:  # type: ignore[union-attr]
            accounts.set_password(db, "ada", "correct horse")
        signed_in = client.post("/login", data={"name": "ada", "password": "correct horse"}, headers={
            "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"})
        if not counted:
            assert ("Secure" in signed_in.headers["set-cookie"]) is (scheme == "https")


def test_no_browser_keeps_a_page_of_the_administrator(admin: TestClient) -> None:
    for path in ("/admin", "/admin/train", "/admin/users", "/account"):
        assert admin.get(path).headers["cache-control"] == "no-store", path
    assert "cache-control" not in admin.get("/runs").headers


def test_bodies_are_bounded(settings: Settings) -> None:
    from app.main import create_app

    small = settings.model_copy(update={"max_body_bytes": 1000})
    with TestClient(create_app(small, supervise=False)) as client:
        answer = client.post("/login", data={"name": "a" * 2000, "password": "b"})
        assert answer.status_code == 413


@pytest.mark.parametrize(("values", "host", "status"), [
    ({}, "127.0.0.1:8000", 200), ({}, "localhost", 200), ({}, "[::1]:8000", 200), ({}, "LOCALHOST", 200),
    ({}, "evil.example", 400), ({}, "127.0.0.1.evil.example", 400), ({}, "", 400),
    ({"host": "0.0.0.0"}, "anything.example", 200),
    ({"host": "0.0.0.0", "allowed_hosts": "sae.example.org"}, "sae.example.org", 200),
    ({"host": "0.0.0.0", "allowed_hosts": "sae.example.org"}, "evil.example", 400),
    ({"allowed_hosts": "*.example.org"}, "sae.example.org:80", 200),
    ({"trusted_origins": "https://sae.example.org"}, "sae.example.org", 200),
    ({"allowed_hosts": "*"}, "evil.example", 200),
])
def test_only_known_host_names_are_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], host: str, status: int
) -> None:
    from app.main import create_app

    known = settings.model_copy(update={"allowed_hosts": "", **values})
    with TestClient(create_app(known, supervise=False)) as client:
        answer = client.get("/healthz", headers={"host": host})
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        if status == 400:
            assert "SAESCOPE_ALLOWED_HOSTS" in answer.json()["error"]


@pytest.mark.parametrize("value", ["a*b", "*.*.example", "*example"])
def test_a_pattern_that_means_nothing_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="SAESCOPE_ALLOWED_HOSTS"):
        Settings.load(allowed_hosts=value)


def test_the_first_segment_of_any_path() -> None:
    assert [first_segment(path) for path in ("/steer/x", "/steer.json", "/", "*", "", "//steer")] == [
        "steer", "steer", "", "*", "", "steer"]


def test_head_of_a_stream_makes_nothing_but_headers() -> None:
    made = []

    def stream() -> Iterator[bytes]:
        for n in range(1000):
            made.append(n)
            yield b"x" * 1000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(stream(), headers={"x-made": "yes"})(scope, receive, send)

    client = TestClient(HeadAsGet(app))
    answer = client.head("/")
    assert (answer.status_code, answer.headers["x-made"], answer.content) == (200, "yes", b"")
    assert len(made) < 5
    assert len(client.get("/").content) == 1_000_000


@pytest.mark.parametrize(("path", "pages"), [
    ("/api/steer", "steer"), ("/api/steer/x/stop", "steer"), ("/api/inspect", "inspect"), ("/steer.json", "steer"),
    ("/effects/a/b/1", "effects"), ("/api", "api"), ("/api/runs", "runs")])
def test_the_api_counts_against_the_limit_of_its_pages(path: str, pages: str) -> None:
    assert limited_pages(path) == pages
