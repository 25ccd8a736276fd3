"""Active steering runs: one task each, which stores the worker's events in the database.

Any number of pages may watch a run.  Each sees its present state and every later change,
so that a page that is opened late or again misses nothing.  A run that no page has watched
for a while is stopped.  If the model worker dies, its runs start again in the next worker, but only once:
the same seed gives the same text, and a run that kills two workers is probably the cause itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.server_tables import RelayedRun
from app.db.tables import SteerRun
from app.servers.relay import Relay, forget
from app.web.storage_faults import storage_fault
from app.worker.cached_requests import busy_message, queue_message
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

STORE_AFTER_S = (0.2, 1.0, 3.0)  # pauses before a result that could not be stored is stored again
STORE_LATER_S = 30.0  # after these, while the page keeps the text
UNSTORED_KEPT = 64  # results that are kept without being stored
FINAL_STATES = frozenset({"succeeded", "failed", "stopped"})
INTERRUPTED = "The server was stopped before this run had finished; run it again."


class LiveRun:
    """The present state of an active run.  It is changed on the event loop only and may be read from any thread."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.state = "queued"
        self.note = "asking the model worker"
        self.restarted = ""  # the reason for the restart, if there was one
        self.result: dict[str, Any] | None = None
        self.error: str | None = None
        self.error_field: str | None = None
        self.unstored = ""  # why the result could not be stored, as a clause
        self.settled = False  # whether it is stored, or it is known that it could not be
        self.prompt = Text()
        self.columns: dict[str, Text] = {}
        self.cells: list[Cell] = []
        self.viewers = 0
        self.seen = time.monotonic()
        self.stop = asyncio.Event()
        self.version = 0  # grows with every change
        self._changed = asyncio.Event()

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES

    def take(self, event: Event) -> None:
        """Update the run with an event from the worker."""
        if isinstance(event, Queued):
            self.note = queue_message(event.position)
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
            self._fail(busy_message(event))
        elif isinstance(event, Failed) and event.gone and not self.restarted:
            self.state, self.restarted, self.columns = "queued", event.message, {}
            self.note = "the model worker is restarting, and this run starts again"
        elif isinstance(event, Failed):
            self._fail(event.message, event.field)

    def _fail(self, message: str, field: str | None = None) -> None:
        self.state, self.error, self.error_field = "failed", message, field
        if self.columns:  # keep the text so far
            self.result = self._result(stopped=True, tokens=0, seconds=0.0)

    def _result(self, **values: Any) -> dict[str, Any]:
        return {
            "prompt": self.prompt.model_dump(), "columns": {n: c.model_dump() for n, c in self.columns.items()},
            "cells": [cell.model_dump() for cell in self.cells], "restarted": self.restarted,
            "saescope_version": __version__, **values}

    def notify(self) -> None:
        """Wake all watchers."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncGenerator[LiveRun]:
        """Yield this run now and after each change until it is final and stored.  Several changes may come as one."""
        self.viewers += 1
        try:
            while True:
                # Both are read before control goes to the watcher, so that it misses no change in the meantime.
                changed, final = self._changed, self.final and self.settled
                yield self
                if final:
                    return
                await changed.wait()
        finally:
            self.viewers -= 1
            self.seen = time.monotonic()


class SteeringRuns:
    """The active steering runs.  Use it on the event loop, except `get` and `recover`."""

    def __init__(
        self, sessions: SessionFactory, worker: WorkerClient, *, max_live: int, grace_s: float,
        relay: Relay | None = None,
    ) -> None:
        """Make an empty set of runs; `relay` shares them with other servers, if there can be any."""
        self.sessions, self._worker, self._max_live, self._grace_s = sessions, worker, max_live, grace_s
        self.relay = relay
        self._live: dict[str, LiveRun] = {}
        self._unstored: dict[str, LiveRun] = {}  # finished, but not in the database yet; the oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._later: set[asyncio.Task[None]] = set()  # those that store what could not be stored at first

    @property
    def full(self) -> bool:
        """Return whether `max_live` runs are active or waiting, so that another one would be refused."""
        return len(self._live) >= self._max_live

    def get(self, run_id: str) -> LiveRun | None:
        """Return the run if it is active or not stored yet, and count this as a look at it, which keeps it alive."""
        live = self._live.get(run_id) or self._unstored.get(run_id)
        if live is not None:
            live.seen = time.monotonic()
        return live

    def recover(self) -> None:
        """Mark as failed the runs that were active when the server last ended.  Call it once, at start.

        Runs that are shared with other servers are left to `Exchange`.
        """
        with self.sessions() as db:
            db.execute(update(SteerRun).where(
                SteerRun.state.in_(("queued", "running")), SteerRun.id.not_in(select(RelayedRun.id)))
                .values(state="failed", error=INTERRUPTED))
            db.commit()

    def announce(self, db: Session, run_id: str) -> None:
        """Add to the transaction that stores a new run what other servers need to know of it."""
        if self.relay is not None:
            self.relay.announce(db, run_id)

    def active(self) -> dict[str, LiveRun]:
        """Return the runs that this server executes, by their ids."""
        return dict(self._live)

    def start(self, run_id: str, message: Generate | Sweep) -> LiveRun:
        """Start the run, whose row must already be in the database."""
        live = self._live[run_id] = LiveRun(run_id)
        for coroutine in (self._run(live, message), self._stop_unwatched(live)):
            task = asyncio.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return live

    def stop(self, run_id: str) -> None:
        """Stop the run within one token, if it is active."""
        if live := self._live.get(run_id):
            live.stop.set()

    async def stop_anywhere(self, run_id: str) -> None:
        """Stop the run as `stop` does, also if another server executes it."""
        if run_id in self._live or self.relay is None:
            self.stop(run_id)
        else:
            await asyncio.to_thread(self.relay.ask_stop, run_id)

    async def close(self) -> None:
        """Leave the runs to another server, or stop them all and wait at most 5 s until they are stored."""
        if self.relay is not None and self._live and await asyncio.to_thread(self._leave, self.relay):
            for task in self._tasks | self._later:
                task.cancel()
            return
        for live in self._live.values():
            live.stop.set()
        if self._live:
            await asyncio.wait(self._tasks, timeout=5)
        for live in self._unstored.values():
            with suppress(Exception):  # the last attempt; the log has the earlier failures
                await asyncio.to_thread(self._store, live)
        for task in self._tasks | self._later:
            task.cancel()

    async def _run(self, live: LiveRun, message: Generate | Sweep) -> None:
        try:
            while not live.final:  # a second pass if the worker died
                async for event in self._worker.ask(message, live.stop):
                    before = live.state
                    live.take(event)
                    if live.state == "running" and before != "running":
                        await self._note_running(live)
                    if not live.final:
                        live.notify()
        except Exception as error:  # pages watch this run, so every fault must end it
            log.exception("steering run %s failed", live.id)
            live.take(Failed(message=f"The server failed: {type(error).__name__}: {error}"))
        # Store the run before its watchers wake, so that they find it in the database.
        try:
            await self._store_patiently(live)
        finally:  # whatever happens, its place is free for the next run
            del self._live[live.id]
            live.settled = True
            live.notify()

    async def _note_running(self, live: LiveRun) -> None:
        """Store that the run has begun.  The text goes on if that fails, because the result is stored at the end."""
        try:
            await asyncio.to_thread(self._store, live)
        except Exception as error:
            log.warning("the state of steering run %s could not be stored: %s", live.id, error)

    async def _store_patiently(self, live: LiveRun) -> None:
        """Store a finished run.  After several failures keep it in memory, and go on trying."""
        for pause in (*STORE_AFTER_S, 0.0):
            try:
                await asyncio.to_thread(self._store, live)
                return
            except Exception as error:
                fault = storage_fault(error)
                live.unstored = fault.reason if fault else f"the server failed ({type(error).__name__})"
                log.error("the result of steering run %s could not be stored: %s", live.id, error)
            await asyncio.sleep(pause)
        self._unstored[live.id] = live
        while len(self._unstored) > UNSTORED_KEPT:
            del self._unstored[next(iter(self._unstored))]
        task = asyncio.create_task(self._store_later(live))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _store_later(self, live: LiveRun) -> None:
        """Go on trying to store a run until it succeeds or the run is no longer kept."""
        while live.id in self._unstored:
            await asyncio.sleep(STORE_LATER_S)
            try:
                await asyncio.to_thread(self._store, live)
            except Exception as error:
                log.warning("the result of steering run %s is still not stored: %s", live.id, error)
            else:
                self._unstored.pop(live.id, None)

    async def _stop_unwatched(self, live: LiveRun) -> None:
        while not live.final:
            if not live.viewers and time.monotonic() - live.seen > self._grace_s:
                live.stop.set()
                return
            await asyncio.sleep(min(0.5, self._grace_s / 4 + 0.01))

    def _leave(self, relay: Relay) -> bool:
        """Give the runs to the other servers; return whether there are any."""
        try:
            if not relay.others():
                return False
            relay.release(list(self._live))
        except SQLAlchemyError:  # the database is away
            return False
        return True

    def _store(self, live: LiveRun) -> None:
        with self.sessions() as db:
            if self.relay is not None and not self.relay.owns(db, live.id):
                return  # this process was paused, and another server writes the same text
            db.execute(update(SteerRun).where(SteerRun.id == live.id)
                       .values(state=live.state, result=live.result, error=live.error))
            if live.final and self.relay is not None:
                forget(db, live.id)
            db.commit()
