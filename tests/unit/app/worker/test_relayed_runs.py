"""Tests of steering runs on two servers of one database, each with a fake model worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from app.db.engine import SessionFactory
from app.db.server_tables import RelayedRun, Server
from app.db.tables import SteerRun
from app.servers.presence import Presence
from app.servers.relay import Relay
from app.worker.protocol import Done, Generate, Progress, Started, Sweep, Text
from app.worker.relayed_runs import Exchange, message_of, remote_run
from app.worker.steering_runs import INTERRUPTED, LiveRun, SteeringRuns
from sae.workspace.paths import Workspace
from tests.unit.app.fake_worker import FakeWorker

ASKED: dict[str, Any] = {"saes": {}, "steer": {
    "model": "demo", "prompt": "x", "interventions": [{"sae": "demo/2-one", "layer": 2, "latent": 1, "max_act": 1}]}}
HALF = {"steered": Text(ids=[1], pieces=["a"])}
WHOLE = {"steered": Text(ids=[1, 2], pieces=["a", "b"])}
WRITING = [Started(prompt=Text(ids=[0], pieces=["x"])), Progress(columns=HALF), None,
           Done(columns=WHOLE, stopped=False, tokens=2, seconds=0.1)]


class Server_:
    """A server's part in steering."""

    def __init__(self, sessions: SessionFactory, workspace: Workspace, grace_s: float = 60) -> None:
        self.presence = Presence(sessions)
        self.presence.beat()
        self.worker = FakeWorker()
        self.runs = SteeringRuns(
            sessions, self.worker, max_live=2, grace_s=grace_s,  # type: ignore[arg-type]
            relay=Relay(sessions, self.presence))
        assert self.runs.relay is not None
        self.exchange = Exchange(self.runs, self.runs.relay, workspace)

    def begin(self) -> LiveRun:
        self.worker.says = [list(WRITING)]
        with self.runs.sessions() as db:
            db.add(SteerRun(id="r", sae_id="demo/2-one", state="queued", request=ASKED))
            self.runs.announce(db, "r")
            db.commit()
        return self.runs.start("r", message_of(ASKED, self.exchange._workspace))

    def find(self) -> LiveRun | None:
        with self.runs.sessions() as db:
            return remote_run(db, self.runs, db.get_one(SteerRun, "r"))

    def die(self) -> None:
        with self.runs.sessions() as db:
            db.execute(update(Server).where(Server.id == self.presence.id).values(seen=1.0))
            db.commit()


async def until(holds: Callable[[], bool], *turns: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            for turn in turns:
                await turn()
            await asyncio.sleep(0.01)


@pytest.fixture
def servers(sessions: SessionFactory, workspace: Workspace) -> tuple[Server_, Server_]:
    return Server_(sessions, workspace), Server_(sessions, workspace)


def test_a_page_of_another_server_follows_a_run(servers: tuple[Server_, Server_]) -> None:
    async def follow() -> None:
        here, there = servers
        live = here.begin()
        seen = there.find()
        assert seen is not None
        begun, states = live.seen, []

        async def watch() -> None:
            async for state in seen.watch():
                states.append((state.state, dict(state.columns)))
                if state.columns == HALF:
                    here.worker.go.set()

        task = asyncio.create_task(watch())
        await until(task.done, here.exchange.once)
        assert states[0] == ("queued", {})
        assert ("running", HALF) in states
        assert states[-1] == ("succeeded", WHOLE)
        assert live.seen > begun, "a page that watches elsewhere keeps the run alive"
        assert there.find() is None
        assert here.runs.active() == {}

    asyncio.run(follow())


def test_a_run_is_stopped_at_another_server(servers: tuple[Server_, Server_]) -> None:
    async def stop() -> None:
        here, there = servers
        live = here.begin()
        await there.runs.stop_anywhere("r")
        await until(lambda: live.stop.is_set() and live.settled, here.exchange.once)
        await there.runs.stop_anywhere("r")  # a finished one stays as it is

    asyncio.run(stop())


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_another_server_takes_the_run_over(servers: tuple[Server_, Server_], how: str) -> None:
    async def take_over() -> None:
        here, there = servers
        live = here.begin()
        await until(lambda: live.state == "running")
        if how == "killed":
            here.die()
        else:
            await here.runs.close()
        there.worker.says = [list(WRITING)]
        there.worker.go.set()
        await there.exchange.once()
        assert there.worker.asked == []  # the task has only been made
        taken = there.runs.get("r")
        assert taken is not None
        await until(lambda: taken.settled, there.exchange.once)
        assert there.worker.asked == here.worker.asked
        with there.runs.sessions() as db:
            row = db.get_one(SteerRun, "r")
            assert (row.state, row.result and row.result["tokens"]) == ("succeeded", 2)
            assert db.get(RelayedRun, "r") is None
        if how == "killed":  # it was only paused, and goes on
            await here.exchange.once()
            await until(lambda: live.settled)
            with there.runs.sessions() as db:
                assert db.get_one(SteerRun, "r").state == "succeeded"

    asyncio.run(take_over())


def test_a_dead_servers_run_that_nobody_watched_has_failed(servers: tuple[Server_, Server_]) -> None:
    async def give_up() -> None:
        here, there = servers
        live = here.begin()
        await until(lambda: live.state == "running")
        await asyncio.sleep(0.1)  # that is stored
        here.die()
        there.runs.recover()  # leaves a run that is shared alone
        with there.runs.sessions() as db:
            assert db.get_one(SteerRun, "r").state in ("queued", "running")
            db.execute(update(RelayedRun).values(watched=1.0))
            db.commit()
        await there.exchange.once()
        with there.runs.sessions() as db:
            row = db.get_one(SteerRun, "r")
            assert (row.state, row.error) == ("failed", INTERRUPTED)
        here.worker.go.set()
        await asyncio.sleep(0.05)

    asyncio.run(give_up())


def test_a_stored_request_makes_its_message(tmp_path: Any) -> None:
    message = message_of(ASKED, Workspace(tmp_path))
    assert isinstance(message, Generate)
    assert message.folders == {"demo/2-one": str(Workspace(tmp_path).sae("demo/2-one"))}
    swept = message_of({**ASKED, "sweep": {"place": 0, "strengths": [1.0, 2.0]}}, Workspace(tmp_path))
    assert isinstance(swept, Sweep)
    assert swept.request.strengths == (1.0, 2.0)
