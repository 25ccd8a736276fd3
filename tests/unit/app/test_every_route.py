"""Tests that no request to any address gets a 5xx, whether it comes from a visitor or an administrator.

Requests go directly into the ASGI application, so that paths and methods arrive as a hostile client would send them
and not as a well-behaved library would rewrite them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import app.main
from app.access import accounts
from app.db.people_tables import Comment, LatentList, ListMember
from app.db.tables import User
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from tests.builds import make_build
from tests.unit.app.conftest import write_sae
from tests.unit.app.fake_worker import FakeWorker

SAE, OTHER = "demo/2-one", "demo/2-two"
ROUTES = {f"{method} {route.path}": route for module in app.main._MODULES for route in module.router.routes
          if isinstance(route, APIRoute) for method in route.methods}
LOOKED_UP = re.compile(
    r'(?:\b(?:query|data|params|query_params|sent|values|given)\.(?:get|getlist)|nth|whole|_within|_whole|Zoom\.read)'
    r'\((?:form, |request, )?"(\w+)"|form\.values\["(\w+)"\]')
# Values that let a request succeed; one parameter at a time is then replaced.
SANE = {
    "model": "demo", "name": "2-one", "source": "2-one", "number": "3", "index": "3", "sample": "0", "position": "1",
    "ctx": "0", "key": "steered", "run_id": "steer-1", "kind": "train", "sae": SAE, "latent": "3", "mode": "add",
    "strength": "1", "prompt": "def", "list_id": "fuzz", "comment": "1", "role": "editor", "q": "def", "on": "1",
    "text": "def f", "a": SAE, "b": OTHER, "sweep": "1 2", "fork": "steer-1"}
ODD = [
    "", "-1", str(10**40), "9" * 5000, "\u00b2", "NaN", "#999999999", "..", "\x00", "\ud800", "x" * 3000]
METHODS = ["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "ÄB"]

values = st.one_of(st.sampled_from(ODD), st.text(max_size=12), st.integers().map(str), st.floats().map(str))


@dataclass(frozen=True)
class Hostile:
    """A request before it is encoded."""

    method: str
    path: str
    query: list[tuple[str, str]]
    form: list[tuple[str, str]]
    kind: str = "form"
    wants: str = "text/html"
    htmx: bool = False


@cache
def looked_up(source: str) -> frozenset[str]:
    return frozenset(a or b for a, b in LOOKED_UP.findall(source))


@cache
def source_of(one: Any) -> str:
    return inspect.getsource(one)


@cache
def looked_up_in(name: str) -> frozenset[str]:
    """Return the parameters that a module looks up, or one of our functions and classes that it uses."""
    module = sys.modules[name]
    used = [found for found in vars(module).values() if inspect.isfunction(found) or inspect.isclass(found)]
    ours = [found for found in used if found.__module__.startswith("app.")]
    return frozenset().union(*(looked_up(source_of(one)) for one in [module, *ours]))


def parameters(route: APIRoute) -> list[str]:
    """Return the names of a route's parameters: the ones that FastAPI declares, and the ones that the code looks up."""
    names, dependants = set(), [route.dependant]
    while dependants:
        one = dependants.pop()
        dependants += one.dependencies
        names |= {field.alias for field in [*one.query_params, *one.body_params]}
    names |= looked_up_in(route.endpoint.__module__)
    return sorted(names)


def one_at_a_time(route: APIRoute, part: int | None = None) -> Iterator[Hostile]:
    """Yield requests in which one parameter is odd, missing or given twice, and all others are valid.

    Given `part`, each parameter has a third of the odd values; another third with the next part or parameter.
    """
    def odd(nth: int) -> list[str]:
        return [value for n, value in enumerate(ODD) if part is None or (n + nth + part) % 3 == 0]

    in_path = re.findall(r"{(\w+)}", route.path)
    names = parameters(route)
    (method,) = route.methods
    usual = {name: SANE[name] for name in names if name in SANE}
    path = {name: SANE.get(name, "0") for name in in_path}

    def request(path: dict[str, str], given: list[tuple[str, str]], **more: Any) -> Hostile:
        address = re.sub(r"{(\w+)}", lambda match: path[match[1]], route.path)
        return Hostile(method, address, *((given, []) if method == "GET" else ([], given)), **more)

    yield request(path, [*usual.items()])
    yield request(path, [], wants="application/json", htmx=True)
    for n, name in enumerate(in_path):
        for value in odd(n):
            yield request(path | {name: value}, [*usual.items()])
    for n, name in enumerate(names):
        for value in odd(n):
            yield request(path, [*(usual | {name: value}).items()], wants="application/json" if value else "text/html")
        yield request(path, [pair for pair in usual.items() if pair[0] != name])
        yield request(path, [*usual.items(), (name, "1"), (name, "\u00b2")])


def anything(route: APIRoute) -> st.SearchStrategy[Hostile]:
    """Return a strategy of requests in which everything may be odd: method, path, parameters, body and headers."""
    path = st.fixed_dictionaries({name: st.one_of(st.just(SANE.get(name, "0")), values)
                                  for name in re.findall(r"{(\w+)}", route.path)})
    pairs = st.lists(st.tuples(st.sampled_from(parameters(route) or ["q"]), values), max_size=6)
    return st.builds(
        Hostile, st.sampled_from(METHODS), path.map(lambda p: re.sub(r"{(\w+)}", lambda m: p[m[1]], route.path)),
        pairs, pairs, st.sampled_from(["form", "json", "multipart", "text", "none", "broken"]),
        st.sampled_from(["text/html", "application/json", "*/*"]), st.booleans())


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def body_of(sent: Hostile) -> tuple[str, bytes]:
    """Return content type and body."""
    if sent.kind == "form":
        return "application/x-www-form-urlencoded", urlencode([(n, encode(v)) for n, v in sent.form]).encode()
    if sent.kind == "json":
        return "application/json", json.dumps({"kind": "train", "spec": dict(sent.form), **dict(sent.form)}).encode()
    if sent.kind == "multipart":
        parts = [b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
            n.encode(), b'; filename="a"' if n in ("file", "files") else b"", encode(v)) for n, v in sent.form]
        return "multipart/form-data; boundary=x", b"".join(parts) + b"--x--\r\n"
    if sent.kind == "broken":
        return "multipart/form-data", b"--\xff\x00\r\n"
    return ("text/plain", b"\xff\xfe") if sent.kind == "text" else ("", b"")


async def status_of(app: Any, sent: Hostile, cookie: str) -> int:
    """Send one request and return the status of the answer.  Raises the exception behind a 5xx."""
    kind, body = body_of(sent)
    headers = [(b"host", b"testserver"), (b"accept", sent.wants.encode())]
    headers += [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())] if kind else []
    headers += [(b"hx-request", b"true")] if sent.htmx else []
    headers += [(b"cookie", f"{accounts.COOKIE}={cookie}".encode())] if cookie else []
    path = sent.path.encode("utf-8", "surrogatepass")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent.method, "scheme": "http",
        "path": unquote(quote(path)), "raw_path": quote(path).encode(), "root_path": "", "headers": headers,
        "query_string": urlencode([(n, encode(v)) for n, v in sent.query]).encode(),
        "client": ("127.0.0.1", 1), "server": ("testserver", 80), "app": app}
    given_body, status = False, 599  # stays if there is no answer at all
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal given_body
        if given_body:
            await gone.wait()
            return {"type": "http.disconnect"}
        given_body = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif not message.get("more_body"):
            gone.set()

    async with asyncio.timeout(60):
        await app(scope, receive, send)
    return status


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    config = Settings(home=tmp_path_factory.mktemp("fuzz"), demo=False, database_url="", steers_per_minute=1e9,
                      logins_per_minute=1e9, exports_at_once=64)
    for sae_id in (SAE, OTHER):
        write_sae(config.workspace, sae_id, n_latents=60)
        path = config.home / "builds" / sae_id / "build-1.duckdb"
        path.parent.mkdir(parents=True)
        make_build(path, sae_id=sae_id, n_latents=60)
    program = app.main.create_app(config, supervise=False)
    with TestClient(program, follow_redirects=False) as client:
        program.state.worker = FakeWorker()
        program.state.cached_requests = CachedRequests(program.state.worker)
        program.state.steering._worker = program.state.worker
        done = client.post("/steer", data={"sae": SAE, "latent": "3", "strength": "1", "mode": "add", "prompt": "def"},
                           headers={"accept": "application/json"}).json()
        client.get(f"/steer/{done['id']}/events")
        client.steer_id = done["id"]  # type: ignore[attr-defined]
        with program.state.sessions() as db:
            db.add_all([LatentList(id="fuzz", name="one", author="ada"), Comment(
                sae_id=SAE, latent=3, text="seen", author="ada")])
            db.add(ListMember(list_id="fuzz", sae_id=SAE, latent=3, author="ada"))
            db.commit()
        yield client
    shutil.rmtree(config.home)


def cookie_of(browser: TestClient, admin: bool) -> str:
    """Return no cookie or an administrator's, which is new after a request that may have ended the account."""
    if not admin:
        return ""
    if known := getattr(browser, "admin_cookie", ""):
        return str(known)
    state = browser.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        user = db.query(User).filter_by(name="ada").first() or User(name="ada")
        user.is_admin = True
        db.add(user)
        db.commit()
        browser.admin_cookie = accounts.open_session(db, user, state.settings)  # type: ignore[attr-defined]
        return browser.admin_cookie  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def send(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sends a request as each visitor and asserts that the only 5xx is 503 (busy)."""
    refused = {"error": "no SAE", "field": "source"}
    monkeypatch.setattr("app.pages.runs.add_sae.inspect", lambda spec, workspace: refused)
    monkeypatch.setattr(accounts, "check_password", lambda db, name, password: None)  # argon2 is slow by intent
    monkeypatch.setattr(accounts, "set_password", lambda db, name, password, **_: None)
    run_id: str = browser.steer_id  # type: ignore[attr-defined]

    def send(sent: Hostile, admins: tuple[bool, ...] = (False, True)) -> None:
        def real(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
            return [(name, value.replace("steer-1", run_id)) for name, value in pairs]

        named = replace(sent, path=sent.path.replace("steer-1", run_id), query=real(sent.query), form=real(sent.form))
        for admin in admins:
            cookie = cookie_of(browser, admin)
            status = browser.portal.call(status_of, browser.app, named, cookie)  # type: ignore[union-attr]
            assert status < 500 or status == 503, f"{status} to {sent}"
            if admin and sent.method not in ("GET", "HEAD", "OPTIONS"):
                browser.admin_cookie = ""  # type: ignore[attr-defined]

    return send


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.heavy)], ids=["some", "all"])
@pytest.mark.parametrize("name", ROUTES)
def test_no_single_parameter_breaks_the_server(name: str, whole: bool, send: Callable[..., None]) -> None:
    """Send each parameter a third of the odd values; its other two thirds are heavy, as each is a request."""
    part = None if whole else list(ROUTES).index(name)
    for n, sent in enumerate(one_at_a_time(ROUTES[name], part)):
        send(sent, (False, True) if n < 2 else (n % 3 > 0,))  # in turn, mostly as the administrator, who gets further


@pytest.mark.parametrize("name", ROUTES)
def test_no_request_breaks_the_server(name: str, send: Callable[..., None]) -> None:
    @settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow])
    @given(anything(ROUTES[name]))
    def try_one(sent: Hostile) -> None:
        send(sent)

    try_one()


@pytest.mark.parametrize("path", ["*", "", "//", "/%", "/\x00", "/" + "a" * 5000, "http://testserver/", "/../../etc",
                                  "example.com:443", "[::1"])
@pytest.mark.parametrize("method", sorted(set(METHODS)))
def test_no_path_breaks_the_server(browser: TestClient, path: str, method: str) -> None:
    for wants in ("text/html", "application/json"):
        sent = Hostile(method, path, [], [], "none", wants, False)
        assert browser.portal.call(status_of, browser.app, sent, "") < 500  # type: ignore[union-attr]
