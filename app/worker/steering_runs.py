"""Steering runs that are going: one task each, from the worker's events to the database.

A run is watched by any number of pages; each sees its present state and every change after it,
so that a page that comes late, or comes back, misses nothing.  A run that nobody has looked at
for a while is stopped.  When the model worker dies, its runs begin anew in the next one, once:
the same seed writes the same text, and what kills a worker twice may well be the run itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import update

from app.db.engine import SessionFactory
from app.db.tables import SteerRun
from app.worker.cached_requests import busy_words, queue_words
from app.worker.client import WorkerClient
from app.worker.protocol import (
    Busy,
    Cell,
    Done,
    Event,
    Failed,
    Generate,
    Loading,
    Progress,
    Queued,
    Started,
    Sweep,
    Swept,
    Text,
)
from sae import __version__

log = logging.getLogger(__name__)

FINAL_STATES = frozenset({"succeeded", "failed", "stopped"})
_INTERRUPTED = "The program was stopped while this was being written; run it again."


class LiveRun:
    """What is known of a run now.  Changed on the event loop only; may be read from any thread."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.state = "queued"
        self.note = "asking the model worker"
        self.restarted = ""  # what made it begin anew
        self.result: dict[str, Any] | None = None
        self.error: str | None = None
        self.error_field: str | None = None
        self.prompt = Text()
        self.columns: dict[str, Text] = {}
        self.cells: list[Cell] = []
        self.viewers = 0
        self.seen = time.monotonic()
        self.stop = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES

    def take(self, event: Event) -> None:
        """Bring the run up to an event of the worker."""
        if isinstance(event, Queued):
            self.note = queue_words(event.position)
        elif isinstance(event, Loading):
            self.note = event.what
        elif isinstance(event, Started):
            self.state, self.note, self.prompt = "running", "writing", event.prompt
        elif isinstance(event, Progress):
            self.columns = event.columns
        elif isinstance(event, Done | Swept):
            if isinstance(event, Done):
                self.columns = event.columns
            else:
                self.cells, self.columns = event.cells, {}
            self.result = self._result(stopped=event.stopped, tokens=event.tokens, seconds=event.seconds)
            self.state = "stopped" if event.stopped else "succeeded"
        elif isinstance(event, Busy):
            self._fail(busy_words(event))
        elif isinstance(event, Failed) and event.gone and not self.restarted:
            self.state, self.restarted, self.columns = "queued", event.message, {}
            self.note = "the model worker is started again, and this begins anew"
        elif isinstance(event, Failed):
            self._fail(event.message, event.field)

    def _fail(self, message: str, field: str | None = None) -> None:
        self.state, self.error, self.error_field = "failed", message, field
        if self.columns:  # what was written until then is kept
            self.result = self._result(stopped=True, tokens=0, seconds=0.0)

    def _result(self, **values: Any) -> dict[str, Any]:
        return {
            "prompt": self.prompt.model_dump(), "columns": {n: c.model_dump() for n, c in self.columns.items()},
            "cells": [cell.model_dump() for cell in self.cells], "restarted": self.restarted,
            "saescope_version": __version__, **values}

    def tell(self) -> None:
        """Wake whoever watches."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[LiveRun]:
        """This run now and after each change (several may come as one), until it is final."""
        self.viewers += 1
        try:
            while True:
                # Both are read before the watcher takes its time: a change meanwhile must not be missed.
                changed, final = self._changed, self.final
                yield self
                if final:
                    return
                await changed.wait()
        finally:
            self.viewers -= 1
            self.seen = time.monotonic()


class SteeringRuns:
    """The runs that are going.  Use it on the event loop, `get` and `recover` apart."""

    def __init__(self, sessions: SessionFactory, worker: WorkerClient, *, max_live: int, grace_s: float) -> None:
        self._sessions, self._worker, self._max_live, self._grace_s = sessions, worker, max_live, grace_s
        self._live: dict[str, LiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        """Whether another run would find no place among the `max_live` that may be written or wait."""
        return len(self._live) >= self._max_live

    def get(self, run_id: str) -> LiveRun | None:
        """The run if it is going.  Looking at it keeps it going."""
        live = self._live.get(run_id)
        if live is not None:
            live.seen = time.monotonic()
        return live

    def recover(self) -> None:
        """Once at the start: what was going when the program ended last has failed."""
        with self._sessions() as db:
            db.execute(update(SteerRun).where(SteerRun.state.in_(("queued", "running")))
                       .values(state="failed", error=_INTERRUPTED))
            db.commit()

    def start(self, run_id: str, message: Generate | Sweep) -> LiveRun:
        """Begin the run, whose row is in the database already."""
        live = self._live[run_id] = LiveRun(run_id)
        for coroutine in (self._run(live, message), self._stop_unwatched(live)):
            task = asyncio.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return live

    def stop(self, run_id: str) -> None:
        """Stop the run within a token; one that is not going is left as it is."""
        if live := self._live.get(run_id):
            live.stop.set()

    async def close(self) -> None:
        """Stop all runs and wait until each is stored."""
        for live in self._live.values():
            live.stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for task in self._tasks:
            task.cancel()

    async def _run(self, live: LiveRun, message: Generate | Sweep) -> None:
        try:
            while not live.final:  # once more where the worker died
                async for event in self._worker.ask(message, live.stop):
                    before = live.state
                    live.take(event)
                    if live.state == "running" and before != "running":
                        await asyncio.to_thread(self._store, live)
                    if not live.final:
                        live.tell()
        except Exception as error:
            log.exception("steering run %s", live.id)
            live.take(Failed(message=f"Something broke on this side: {type(error).__name__}: {error}"))
        # Stored before it is told: who asks after the end finds it in the database.
        await asyncio.to_thread(self._store, live)
        del self._live[live.id]
        live.tell()

    async def _stop_unwatched(self, live: LiveRun) -> None:
        while not live.final:
            if not live.viewers and time.monotonic() - live.seen > self._grace_s:
                live.stop.set()
                return
            await asyncio.sleep(min(0.5, self._grace_s / 4 + 0.01))

    def _store(self, live: LiveRun) -> None:
        with self._sessions() as db:
            db.execute(update(SteerRun).where(SteerRun.id == live.id)
                       .values(state=live.state, result=live.result, error=live.error))
            db.commit()
