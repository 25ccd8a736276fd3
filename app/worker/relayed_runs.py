"""Steering runs that another server executes, and those of this one for the pages of the others.

Several servers share one database.  A page may reach any of them, whichever executes the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.tables import SteerRun
from app.servers.relay import Relay, forget
from app.worker.protocol import Cell, Generate, Sweep, Text
from app.worker.steering_runs import FINAL_STATES, INTERRUPTED, LiveRun, SteeringRuns
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import SteerRequest
from sae.workspace.paths import Workspace

log = logging.getLogger(__name__)

EXCHANGE_S = 0.3
_PLAIN = ("state", "note", "restarted", "error", "error_field", "unstored", "result")


class RemoteRun(LiveRun):
    """A run that another server executes, as the database shows it."""

    def __init__(self, run_id: str, relay: Relay, sessions: SessionFactory) -> None:
        super().__init__(run_id)
        self._relay, self._sessions = relay, sessions
        self._seen: dict[str, Any] = {}

    def look(self, db: Session) -> bool:
        """Read the run's present state; return whether it changed.  The text comes once the other server sends it."""
        row = self._relay.look(db, self.id)
        if row is not None:
            state = row.state or {}
        else:  # it is finished, or was deleted
            run = db.get(SteerRun, self.id, populate_existing=True)
            result = (run.result if run is not None else None) or {}
            state = {"prompt": {}, "columns": {}, "cells": []} | result | {
                "state": run.state if run is not None else "failed", "error": run.error if run is not None else None,
                "result": result}
        if not state or state == self._seen:
            return False
        self._seen = state
        self.version += 1
        for name in _PLAIN:
            setattr(self, name, state.get(name, getattr(self, name)))
        self.prompt = Text.model_validate(state["prompt"])
        self.columns = {name: Text.model_validate(text) for name, text in state["columns"].items()}
        self.cells = [Cell.model_validate(cell) for cell in state["cells"]]
        return True

    async def watch(self) -> AsyncGenerator[LiveRun]:
        yield self
        while not self.final:
            await asyncio.sleep(EXCHANGE_S)
            if await asyncio.to_thread(self._look_now):
                yield self

    def _look_now(self) -> bool:
        with self._sessions() as db:
            return self.look(db)


def remote_run(db: Session, runs: SteeringRuns, row: SteerRun) -> RemoteRun | None:
    """Return the run of this row if another server executes it; a row that is finished by now is read again."""
    if runs.relay is None or row.state in FINAL_STATES:
        return None
    run = RemoteRun(row.id, runs.relay, runs.sessions)
    run.look(db)
    db.refresh(row)
    return None if row.state in FINAL_STATES else run


def snapshot(live: LiveRun) -> dict[str, Any]:
    """Return a run's present state for the pages of other servers."""
    return {name: getattr(live, name) for name in _PLAIN} | {
        "prompt": live.prompt.model_dump(), "columns": {name: text.model_dump() for name, text in live.columns.items()},
        "cells": [cell.model_dump() for cell in live.cells]}


def message_of(asked: dict[str, Any], workspace: Workspace) -> Generate | Sweep:
    """Return the message to the model worker for a stored request."""
    steer = SteerRequest.model_validate(asked["steer"])
    folders = {i.sae: str(workspace.sae(i.sae)) for i in steer.interventions}
    if values := asked.get("sweep"):
        return Sweep(request=SweepRequest.model_validate({"request": asked["steer"], **values}), folders=folders)
    return Generate(request=steer, folders=folders)


class Exchange:
    """The task that keeps this server's runs and those of the others in step.  Use it on the event loop."""

    def __init__(self, runs: SteeringRuns, relay: Relay, workspace: Workspace) -> None:
        self._runs, self._relay, self._workspace = runs, relay, workspace
        self._remote: frozenset[str] = frozenset()
        self._sent: dict[str, int] = {}

    async def keep(self) -> None:
        """Exchange news until cancelled."""
        while True:
            try:
                await self.once()
            except Exception as error:  # the database is away, and runs go on meanwhile
                log.warning("steering runs could not be shared: %s", str(error).splitlines()[0])
            await asyncio.sleep(EXCHANGE_S)

    async def once(self) -> None:
        """Send and receive news once, and take over the runs of servers that have died."""
        live = self._runs.active()
        states = {run.id: snapshot(run) if run.id in self._remote and self._sent.get(run.id) != run.version else None
                  for run in live.values()}
        self._sent = {run.id: run.version if states[run.id] else self._sent.get(run.id, -1) for run in live.values()}
        if states:
            viewed = [run.id for run in live.values() if run.viewers]
            news = await asyncio.to_thread(self._relay.exchange, states, viewed)
            for run_id in news.stop | news.lost:  # a lost run has another server, which writes the same text
                self._runs.stop(run_id)
            for run_id in news.remote:
                self._runs.get(run_id)  # counts as a look at it
            self._remote = news.remote
        for run_id, watched in (await asyncio.to_thread(self._relay.orphans)).items():
            if watched and not self._runs.full:
                message = await asyncio.to_thread(self._take_over, run_id)
                if message is not None:
                    log.info("steering run %s is taken over from a server that ended", run_id)
                    self._runs.start(run_id, message)
            elif not watched:
                await asyncio.to_thread(self._give_up, run_id)

    def _take_over(self, run_id: str) -> Generate | Sweep | None:
        if not self._relay.take_over(run_id):
            return None
        with self._runs.sessions() as db:
            row = db.get(SteerRun, run_id)
            if row is None or row.state in FINAL_STATES:
                forget(db, run_id)
                db.commit()
                return None
            return message_of(row.request, self._workspace)

    def _give_up(self, run_id: str) -> None:
        if not self._relay.take_over(run_id):
            return
        with self._runs.sessions() as db:
            forget(db, run_id)
            db.execute(update(SteerRun).where(SteerRun.id == run_id, SteerRun.state.in_(("queued", "running")))
                       .values(state="failed", error=INTERRUPTED))
            db.commit()
