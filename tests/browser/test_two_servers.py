"""The whole way of a new user, at either of two servers on one Postgres database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from app.access import accounts
from app.db.engine import make_engine, make_session_factory
from app.settings import Settings
from tests import postgres
from tests.browser.conftest import SMALL, Server, forks
from tests.browser.test_walk import walk
from tests.forked_runs import carry_out
from tests.servers import make_token, nothing_left, start

pytestmark = [
    pytest.mark.browser, pytest.mark.heavy, pytest.mark.timeout(1200),
    pytest.mark.skipif(not postgres.available(), reason="Postgres is not installed")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[list[Server]]:
    """Two servers with a small SAE, at each of which the administrator has signed in."""
    home = tmp_path_factory.mktemp("two") / "home"
    with postgres.cluster() as cluster, postgres.database(cluster) as url, nothing_left(home):
        token = make_token(home, url)
        with forks(home):
            carry_out(home, [["train", *SMALL]])
        running = [start(home, token, url) for _ in range(2)]
        engine = make_engine(url)
        settings = Settings.load(home=home, database_url=url)
        with make_session_factory(engine)() as db:
            user = accounts.set_password(db, "ada", "correct horse")
            secret = accounts.open_session(db, user, settings)
        engine.dispose()
        yield [Server(one.address, "", one.process.pid, home, [
            {"name": accounts.COOKIE, "value": secret, "url": one.address}]) for one in running]


@pytest.mark.parametrize("number", [0, 1])
def test_the_whole_way_at_either_server(page: Page, pair: list[Server], number: int) -> None:
    walk(page, pair[number], f"my-own-{number}")
