"""One-shot questions: joined, kept, told of once when they fail, forgotten when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.worker.cached_requests import CachedRequests, fault_words
from app.worker.protocol import Busy, Failed, Loading, Part, Queued, Ready, Warm
from tests.unit.app.fake_worker import FakeWorker

ASK = Warm(model="demo")


def with_questions(test: Callable[[CachedRequests, FakeWorker], Awaitable[None]], keep: int = 64) -> None:
    async def run() -> None:
        worker = FakeWorker()
        questions = CachedRequests(worker, keep)  # type: ignore[arg-type]
        await test(questions, worker)
        await questions.close()

    asyncio.run(run())


def test_the_same_question_is_asked_once_and_its_answer_kept() -> None:
    async def test(questions: CachedRequests, worker: FakeWorker) -> None:
        both = await asyncio.gather(*(questions.ask("one", ASK, 5) for _ in range(2)))
        assert both[0] is both[1]
        assert isinstance(both[0].last, Ready)
        await questions.ask("one", ASK, 5)
        assert len(worker.asked) == 1
        assert questions.going("one") is both[0]
        assert questions.going("two") is None

    with_questions(test)


def test_one_that_takes_long_says_what_it_waits_for() -> None:
    async def test(questions: CachedRequests, worker: FakeWorker) -> None:
        worker.says = [[Queued(position=2), Loading(what="loading"), Part(done=0.4), None, Ready()]]
        question = await questions.ask("one", ASK, 0.05)
        assert question.last is None
        assert question.note == "40% done"
        assert fault_words(question)[1] == 503
        worker.go.set()
        assert isinstance((await questions.ask("one", ASK, 5)).last, Ready)
        assert len(worker.asked) == 1

    with_questions(test)


def test_a_fault_is_told_once_and_the_question_asked_anew() -> None:
    async def test(questions: CachedRequests, worker: FakeWorker) -> None:
        worker.says = [[Busy(retry_after_s=3)], [Failed(message="gone", gone=True)], [Failed(message="no", field="x")]]
        words, status, headers = fault_words(await questions.ask("one", ASK, 5))
        assert (status, headers) == (503, {"Retry-After": "3"})
        assert "no room" in words
        assert fault_words(await questions.ask("one", ASK, 5))[:2] == ("gone", 503)
        assert fault_words(await questions.ask("one", ASK, 5)) == ("no", 422, {})
        assert (await questions.ask("one", ASK, 5)).fault is None
        assert len(worker.asked) == 4

    with_questions(test)


def test_the_oldest_answers_are_forgotten() -> None:
    async def test(questions: CachedRequests, worker: FakeWorker) -> None:
        for key in range(5):
            await questions.ask(key, ASK, 5)
        await asyncio.sleep(0.01)
        assert [key for key in range(5) if questions.going(key)] == [3, 4]

    with_questions(test, keep=2)


def test_hints_go_one_at_a_time_and_leave_nothing() -> None:
    async def test(questions: CachedRequests, worker: FakeWorker) -> None:
        worker.says = [[Loading(what="x"), None, Ready()]]
        questions.hint(ASK)
        questions.hint(ASK)
        await asyncio.sleep(0.01)
        assert len(worker.asked) == 1
        worker.go.set()
        await asyncio.sleep(0.05)
        questions.hint(ASK)
        await asyncio.sleep(0.01)
        assert len(worker.asked) == 2

    with_questions(test)
