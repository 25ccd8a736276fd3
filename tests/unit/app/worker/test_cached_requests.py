"""Tests of cached requests: joined, kept, reported once when they fail, dropped when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.worker.cached_requests import CachedRequests, fault_answer
from app.worker.protocol import Busy, Failed, Loading, Part, Queued, Ready, Warm
from tests.unit.app.fake_worker import FakeWorker

ASK = Warm(model="demo")


def with_requests(test: Callable[[CachedRequests, FakeWorker], Awaitable[None]], keep: int = 64) -> None:
    async def run() -> None:
        worker = FakeWorker()
        requests = CachedRequests(worker, keep)  # type: ignore[arg-type]
        await test(requests, worker)
        await requests.close()

    asyncio.run(run())


def test_the_same_request_is_sent_once_and_its_answer_kept() -> None:
    async def test(requests: CachedRequests, worker: FakeWorker) -> None:
        both = await asyncio.gather(*(requests.ask("one", ASK, 5) for _ in range(2)))
        assert both[0] is both[1]
        assert isinstance(both[0].last, Ready)
        await requests.ask("one", ASK, 5)
        assert len(worker.asked) == 1
        assert requests.going("one") is both[0]
        assert requests.going("two") is None

    with_requests(test)


def test_a_slow_request_describes_its_progress() -> None:
    async def test(requests: CachedRequests, worker: FakeWorker) -> None:
        worker.says = [[Queued(position=2), Loading(what="loading"), Part(done=0.4), None, Ready()]]
        request = await requests.ask("one", ASK, 0.05)
        assert request.last is None
        assert request.note == "40% done"
        assert fault_answer(request)[1] == 503
        worker.go.set()
        assert isinstance((await requests.ask("one", ASK, 5)).last, Ready)
        assert len(worker.asked) == 1

    with_requests(test)


def test_a_fault_is_reported_once_and_the_request_sent_again() -> None:
    async def test(requests: CachedRequests, worker: FakeWorker) -> None:
        worker.says = [[Busy(retry_after_s=3)], [Failed(message="gone", gone=True)], [Failed(message="no", field="x")]]
        message, status, headers = fault_answer(await requests.ask("one", ASK, 5))
        assert (status, headers) == (503, {"Retry-After": "3"})
        assert "is busy" in message
        assert fault_answer(await requests.ask("one", ASK, 5))[:2] == ("gone", 503)
        assert fault_answer(await requests.ask("one", ASK, 5)) == ("no", 422, {})
        assert (await requests.ask("one", ASK, 5)).fault is None
        assert len(worker.asked) == 4

    with_requests(test)


def test_the_oldest_answers_are_dropped() -> None:
    async def test(requests: CachedRequests, worker: FakeWorker) -> None:
        for key in range(5):
            await requests.ask(key, ASK, 5)
        await asyncio.sleep(0.01)
        assert [key for key in range(5) if requests.going(key)] == [3, 4]

    with_requests(test, keep=2)


def test_hints_go_one_at_a_time_and_leave_nothing() -> None:
    async def test(requests: CachedRequests, worker: FakeWorker) -> None:
        worker.says = [[Loading(what="x"), None, Ready()]]
        requests.hint(ASK)
        requests.hint(ASK)
        await asyncio.sleep(0.01)
        assert len(worker.asked) == 1
        worker.go.set()
        await asyncio.sleep(0.05)
        requests.hint(ASK)
        await asyncio.sleep(0.01)
        assert len(worker.asked) == 2

    with_requests(test)
