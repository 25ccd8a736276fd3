"""One-shot questions to the model worker: an inspection, a next-token table, a latent's effects.

Each has one answer, which is kept for a while under the question's key, so that a page that sorts
its rows anew, or comes back, asks nothing again.  A question goes on while nobody looks; one that
ends in a fault is told of once and asked anew the next time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from app.worker.client import WorkerClient
from app.worker.protocol import Busy, Event, Failed, Final, Loading, Part, Queued

log = logging.getLogger(__name__)

PATIENCE_S = 2.5  # how long a page waits for an answer before it shows what it waits for
_ASKING = "asking the model worker"


class CachedRequest:
    """What is known of a question now: what it waits for (`note`), and its last event once it has ended."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.note = _ASKING
        self.last: Event | None = None
        self.ended = asyncio.Event()

    @property
    def fault(self) -> Failed | Busy | None:
        return self.last if isinstance(self.last, Failed | Busy) else None

    def take(self, event: Event) -> None:
        """Bring the question up to an event of the worker."""
        if isinstance(event, Final):
            self.last = event
            self.ended.set()
        elif isinstance(event, Queued):
            self.note = queue_words(event.position)
        elif isinstance(event, Loading):
            self.note = event.what
        elif isinstance(event, Part):
            self.note = f"{event.done:.0%} done"
        else:
            self.note = "reading"


def queue_words(position: int) -> str:
    """A place in the worker's queue as people say it."""
    return "next in line" if position == 1 else f"waiting: {position - 1} before this one"


def busy_words(busy: Busy) -> str:
    """What to say when the worker's queue is full."""
    return f"The model worker has no room at the moment; try again in {busy.retry_after_s:.0f} s."


def fault_words(question: CachedRequest) -> tuple[str, int, dict[str, str]]:
    """A question's fault for an answer: words, status, headers; of one that takes too long, that it does."""
    fault = question.fault
    if isinstance(fault, Busy):
        return busy_words(fault), 503, {"Retry-After": f"{fault.retry_after_s:.0f}"}
    if fault is None:
        return f"This takes longer than can be waited for here: {question.note}.", 503, {"Retry-After": "10"}
    return fault.message, 503 if fault.gone else 422, {}


class CachedRequests:
    """Asks the worker and keeps the newest `keep` answers.  Use it on the event loop."""

    def __init__(self, worker: WorkerClient, keep: int = 64) -> None:
        self._worker, self._keep = worker, keep
        self._known: OrderedDict[Hashable, CachedRequest] = OrderedDict()  # used longest ago first
        self._tasks: set[asyncio.Task[None]] = set()
        self._hinted: CachedRequest | None = None

    def hint(self, message: Any) -> None:
        """Let the worker load what will be needed soon.  Nothing is kept, and only one hint goes at a time."""
        if self._hinted is None or self._hinted.ended.is_set():
            self._hinted = CachedRequest("hint")
            self._begin(self._hinted, message)

    def begin(self, key: Hashable, message: Any) -> CachedRequest:
        """The question, asked now unless it is known."""
        question = self._known.get(key)
        if question is None:
            question = self._known[key] = CachedRequest(key)
            self._begin(question, message)
        self._known.move_to_end(key)
        return question

    def going(self, key: Hashable) -> CachedRequest | None:
        """The question if it was asked and its answer is awaited or at hand."""
        return self._known.get(key)

    async def ask(self, key: Hashable, message: Any, patience_s: float) -> CachedRequest:
        """The question, asked now unless it is known; waits at most so long for its end."""
        question = self.begin(key, message)
        try:
            await asyncio.wait_for(question.ended.wait(), patience_s)
        except TimeoutError:
            return question
        if question.fault and self._known.get(key) is question:
            del self._known[key]
        return question

    async def close(self) -> None:
        """Leave all that is being asked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, question: CachedRequest, message: Any) -> None:
        task = asyncio.create_task(self._follow(question, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, question: CachedRequest, message: Any) -> None:
        try:
            async for event in self._worker.ask(message):
                question.take(event)
        except Exception as error:
            log.exception("a question to the model worker")
            question.take(Failed(message=f"Something broke on this side: {type(error).__name__}: {error}"))
        ended = [key for key, known in self._known.items() if known.ended.is_set()]
        for key in ended[: max(0, len(self._known) - self._keep)]:
            del self._known[key]


class VisitorRequests:
    """The questions as one visitor asks them: `count` is called before each that is not known yet, and may raise."""

    def __init__(self, questions: CachedRequests, count: Callable[[], None]) -> None:
        self._questions, self._count = questions, count
        self.hint, self.going = questions.hint, questions.going

    def begin(self, key: Hashable, message: Any) -> CachedRequest:
        """As `CachedRequests.begin`."""
        if self.going(key) is None:
            self._count()
        return self._questions.begin(key, message)

    async def ask(self, key: Hashable, message: Any, patience_s: float) -> CachedRequest:
        """As `CachedRequests.ask`."""
        self.begin(key, message)
        return await self._questions.ask(key, message, patience_s)
