"""Tests of rate limits that several servers share."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from app.access.middleware import TokenBuckets
from app.db.engine import make_engine
from app.servers.rate_limits import SharedBuckets


def test_two_servers_take_from_one_bucket(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("only servers on Postgres share limits")
    here, there = (SharedBuckets(engine, "login", TokenBuckets(3)) for _ in range(2))
    assert [here.take("1.2.3.4"), there.take("1.2.3.4"), here.take("1.2.3.4")] == [0, 0, 0]
    assert 15 < there.take("1.2.3.4") <= 20  # seconds until a token, at 3 a minute
    assert here.take("1.2.3.4") > 0
    assert here.take("4.3.2.1") == 0
    assert SharedBuckets(engine, "steer", TokenBuckets(3)).take("1.2.3.4") == 0, "each group has a limit of its own"
    with engine.begin() as connection:
        connection.execute(text("UPDATE rate_buckets SET at = at - 20.5"))
    assert here.take("1.2.3.4") == 0
    assert there.take("1.2.3.4") > 0


def test_without_its_database_a_server_counts_by_itself() -> None:
    away = make_engine("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    buckets = SharedBuckets(away, "login", TokenBuckets(2))
    assert [buckets.take("a"), buckets.take("a")] == [0, 0]
    assert buckets.take("a") > 0
    away.dispose()
