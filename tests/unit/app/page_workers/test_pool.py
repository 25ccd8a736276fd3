"""Tests of real page workers: they answer as the server does, and killing one costs at most one answer."""

from __future__ import annotations

import asyncio
import gzip
import marshal
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.page_workers import pool as pool_module
from app.page_workers.pool import PageWorkerPool
from app.settings import Settings
from tests.unit.app.conftest import BATCH

PAGES = (
    "/", "/index.json", f"/{BATCH}", f"/{BATCH}/4", f"/{BATCH}/4?window=long", f"/{BATCH}/4.json", f"/{BATCH}/latents",
    f"/{BATCH}/latents?sort=max&dir=desc", f"/{BATCH}/latents.json", f"/{BATCH}/tokens", f"/{BATCH}/999",
    "/demo/none/3", f"/{BATCH}/latents?sort=nonsense")


def scope(address: str, *headers: tuple[str, str]) -> dict[str, Any]:
    path, _, query = address.partition("?")
    pairs = [(b"host", b"testserver"), (b"accept-encoding", b"gzip"), (b"accept", b"*/*")]
    return {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": pairs + [(name.encode(), value.encode()) for name, value in headers],
        "client": ("testclient", 50000), "server": ("testserver", 80)}


@asynccontextmanager
async def reading(settings: Settings, n: int) -> AsyncIterator[PageWorkerPool]:
    pool = PageWorkerPool(settings, n)
    try:
        await up(pool, n)
        yield pool
    finally:
        processes = pids(pool)
        await pool.close()
        assert not any(map(lives, processes))


def pids(pool: PageWorkerPool) -> list[int]:
    """Return the ids of the processes that are ready."""
    return [worker.process.pid for worker in pool._ready]


async def up(pool: PageWorkerPool, n: int, without: int = 0) -> None:
    """Wait until `n` page workers are ready and the process `without` is not among them."""
    async with asyncio.timeout(120):
        while len(pids(pool)) < n or without in pids(pool):
            await asyncio.sleep(0.05)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def ask(pool: PageWorkerPool, address: str, *headers: tuple[str, str]) -> tuple[int, dict[str, str], str]:
    answer = await pool.ask(scope(address, *headers))
    assert answer is not None
    status, pairs, body = answer
    named = {name.decode().lower(): value.decode() for name, value in pairs}
    return status, named, (gzip.decompress(body) if named.get("content-encoding") == "gzip" else body).decode()


@pytest.mark.usefixtures("real_processes")
def test_a_page_worker_answers_as_the_server_does(browsable: TestClient, settings: Settings) -> None:
    async def all_of_them() -> list[tuple[int, dict[str, str], str]]:
        async with reading(settings, 1) as pool:
            return [await ask(pool, address) for address in PAGES]

    for address, (status, headers, body) in zip(PAGES, asyncio.run(all_of_them()), strict=True):
        ours = browsable.get(address)
        assert (status, body) == (ours.status_code, ours.text), address
        for name in ("content-type", "etag", "cache-control", "vary", "content-security-policy"):
            assert headers.get(name) == ours.headers.get(name), (address, name)


def test_a_page_worker_sees_later_changes(browsable: TestClient, settings: Settings) -> None:
    from app.access import accounts
    from app.library import labels

    async def before_and_after() -> list[str]:
        async with reading(settings, 1) as pool:
            before = await ask(pool, f"/{BATCH}/4")
            with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
                labels.save(db, BATCH, 4, "ada", text="odd brackets")
                secret = accounts.open_session(db, accounts.set_password(db, "ada", "long enough"), settings)
            after = await ask(pool, f"/{BATCH}/4")
            hers = await ask(pool, f"/{BATCH}/4", ("cookie", f"{accounts.COOKIE}={secret}"))
            return [before[2], after[2], hers[2]]

    before, after, hers = asyncio.run(before_and_after())
    assert "odd brackets" not in before
    assert "odd brackets" in after
    assert "account of </span>ada" not in after
    assert "account of </span>ada" in hers


def test_one_that_is_killed_is_replaced_and_nothing_waits_for_it(browsable: TestClient, settings: Settings) -> None:
    async def killed() -> None:
        async with reading(settings, 2) as pool:
            for _ in range(2):
                pid = pids(pool)[0]
                asked = [asyncio.create_task(pool.ask(scope(f"/{BATCH}/{i}"))) for i in range(20)]
                await asyncio.sleep(0)
                os.kill(pid, signal.SIGKILL)
                answers = await asyncio.wait_for(asyncio.gather(*asked), 60)
                assert sum(answer is None for answer in answers) <= 1
                assert all(answer[0] == 200 for answer in answers if answer)
                await up(pool, 2, without=pid)

    asyncio.run(killed())


def test_a_request_that_is_given_up_costs_no_other_its_answer(browsable: TestClient, settings: Settings) -> None:
    async def given_up() -> None:
        async with reading(settings, 1) as pool:
            pid = pids(pool)[0]
            task = asyncio.create_task(pool.ask(scope(f"/{BATCH}/latents")))
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await up(pool, 1, without=pid)  # the pending answer must not be taken for the next request's
            status, _, body = await ask(pool, f"/{BATCH}/4.json")
            assert (status, body) == (200, browsable.get(f"/{BATCH}/4.json").text)

    asyncio.run(given_up())


class Stalled:
    """A page worker whose answers wait until `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0

    async def ask(self, content: bytes) -> bytes:
        self.asked += 1
        await self.go.wait()
        return marshal.dumps((200, [], b""))


def test_requests_wait_while_others_are_answered_and_no_longer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "_WAIT_S", 0.2)

    async def wait() -> None:
        pool, worker = PageWorkerPool(settings, 0), Stalled()
        pool._ready.add(worker)  # type: ignore[arg-type]
        pool._free.give(worker)  # type: ignore[arg-type]
        held = asyncio.create_task(pool.ask(scope("/held")))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(pool.ask(scope("/stuck")), 2) is None, "nothing is answered"
        gone = asyncio.create_task(pool.ask(scope("/gone")))
        patient = asyncio.create_task(pool.ask(scope("/patient")))
        for _ in range(4):
            await asyncio.sleep(0.1)
            pool._answered += 1  # another page worker's
        assert not patient.done(), "it waits for longer than for a pool that is stuck"
        gone.cancel()
        worker.go.set()
        assert (await patient, await held) == ((200, [], b""),) * 2
        assert worker.asked == 2
        assert await pool.ask(scope("/next")) == (200, [], b""), "who gave up took no page worker along"
        await pool.close()

    asyncio.run(wait())


def test_without_page_workers_there_is_no_answer(settings: Settings) -> None:
    async def none() -> None:
        pool = PageWorkerPool(settings, 0)
        assert await pool.ask(scope("/")) is None
        await pool.close()

    asyncio.run(none())
