"""Requests to the model worker that have a single answer: an inspection, a next-token table, a latent's effects.

The answer is kept for a while under the request's key, so that a page that sorts its rows differently, or is
loaded again, does not repeat the request.  A request continues when no page waits for it.  A failed request is
reported once and sent again the next time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any

from app.worker.client import WorkerClient
from app.worker.protocol import Busy, Event, Failed, Final, Loading, Part, Queued

log = logging.getLogger(__name__)

PATIENCE_S = 2.5  # seconds that a page waits for the answer before it shows the request's progress instead
_ASKING = "asking the model worker"


class CachedRequest:
    """One request and its progress: `note` describes it for the page, `last` is the final event once it has ended."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.note = _ASKING
        self.last: Event | None = None
        self.ended = asyncio.Event()

    @property
    def fault(self) -> Failed | Busy | None:
        return self.last if isinstance(self.last, Failed | Busy) else None

    def take(self, event: Event) -> None:
        """Update the request with an event from the worker."""
        if isinstance(event, Final):
            self.last = event
            self.ended.set()
        elif isinstance(event, Queued):
            self.note = queue_message(event.position)
        elif isinstance(event, Loading):
            self.note = event.what
        elif isinstance(event, Part):
            self.note = f"{event.done:.0%} done"
        else:
            self.note = "reading"


def queue_message(position: int) -> str:
    """Describe a position in the worker's queue."""
    return "next in line" if position == 1 else f"waiting: {position - 1} before this one"


def busy_message(busy: Busy) -> str:
    """Return the message for a request that the worker's full queue refused."""
    return f"The model worker is busy; try again in {busy.retry_after_s:.0f} s."


def fault_answer(request: CachedRequest) -> tuple[str, int, dict[str, str]]:
    """Return (message, HTTP status, headers) for a request that failed or, without a fault, takes too long."""
    fault = request.fault
    if isinstance(fault, Busy):
        return busy_message(fault), 503, {"Retry-After": f"{fault.retry_after_s:.0f}"}
    if fault is None:
        return f"The answer takes longer than this page can wait ({request.note}).", 503, {"Retry-After": "10"}
    return fault.message, 503 if fault.gone else 422, {}


class CachedRequests:
    """The requests to the worker, with the `keep` most recently used answers.  Use it on the event loop."""

    def __init__(self, worker: WorkerClient, keep: int = 64) -> None:
        self._worker, self._keep = worker, keep
        self._known: OrderedDict[Hashable, CachedRequest] = OrderedDict()  # the least recently used first
        self._tasks: set[asyncio.Task[None]] = set()
        self._hinted: CachedRequest | None = None

    def hint(self, message: Any) -> None:
        """Let the worker load what will be needed soon.  Only one hint is active at a time; its answer is dropped."""
        if self._hinted is None or self._hinted.ended.is_set():
            self._hinted = CachedRequest("hint")
            self._begin(self._hinted, message)

    def begin(self, key: Hashable, message: Any) -> CachedRequest:
        """Return the request under `key`, sending `message` if there is none."""
        request = self._known.get(key)
        if request is None:
            request = self._known[key] = CachedRequest(key)
            self._begin(request, message)
        self._known.move_to_end(key)
        return request

    def going(self, key: Hashable) -> CachedRequest | None:
        """Return the request under `key`, active or answered, or None."""
        return self._known.get(key)

    async def ask(self, key: Hashable, message: Any, patience_s: float) -> CachedRequest:
        """Return the request under `key` as `begin` does, after waiting at most `patience_s` seconds for its end."""
        request = self.begin(key, message)
        try:
            await asyncio.wait_for(request.ended.wait(), patience_s)
        except TimeoutError:
            return request
        if request.fault and self._known.get(key) is request:
            del self._known[key]
        return request

    async def close(self) -> None:
        """Cancel all active requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, request: CachedRequest, message: Any) -> None:
        task = asyncio.create_task(self._follow(request, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, request: CachedRequest, message: Any) -> None:
        try:
            async for event in self._worker.ask(message):
                request.take(event)
        except Exception as error:  # a page waits for this request, so every fault must end it
            log.exception("a request to the model worker failed")
            request.take(Failed(message=f"The server failed: {type(error).__name__}: {error}"))
        ended = [key for key, known in self._known.items() if known.ended.is_set()]
        for key in ended[: max(0, len(self._known) - self._keep)]:
            del self._known[key]


class VisitorRequests:
    """The cached requests as one visitor sends them.

    `count` is called before each new one and may raise.  `waiting` surrounds the visitor's wait for an answer.
    """

    def __init__(
        self, cached_requests: CachedRequests, count: Callable[[], Awaitable[None]],
        waiting: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._cached_requests, self._count, self._waiting = cached_requests, count, waiting
        self.hint, self.going = cached_requests.hint, cached_requests.going

    async def begin(self, key: Hashable, message: Any) -> CachedRequest:
        """Do as `CachedRequests.begin`, and count the request if it is new."""
        if self.going(key) is None:
            await self._count()
        return self._cached_requests.begin(key, message)

    async def ask(self, key: Hashable, message: Any, patience_s: float) -> CachedRequest:
        """Do as `CachedRequests.ask`, and count the request if it is new."""
        await self.begin(key, message)
        async with self._waiting():
            return await self._cached_requests.ask(key, message, patience_s)
