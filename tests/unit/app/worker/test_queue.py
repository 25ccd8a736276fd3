"""Tests of the request queue with a fake engine: order, positions, cancelled requests, faults."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.worker.protocol import (
    Done,
    Event,
    Failed,
    Final,
    Generate,
    Hello,
    Loading,
    Queued,
    Report,
    Status,
    Stop,
    decode_event,
    encode,
)
from app.worker.queue import Address, RequestQueue, Send
from sae.errors import UserError
from sae.steering.request import Intervention, SteerRequest


def message(prompt: str = "x") -> Generate:
    one = Intervention(sae="demo/x", layer=0, latent=0, max_act=1)
    return Generate(request=SteerRequest(model="demo", prompt=prompt, interventions=(one,)), folders={})


class Models:
    """A fake engine that acts by the prompt; the prompt `hold` keeps a request active until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.busy = threading.Event()
        self.served: list[str] = []
        self.steps = self.resets = 0
        self.breaks = False

    def begin(self, job: Any, send: Send, cancelled: threading.Event) -> Iterator[None]:
        prompt = job.request.prompt
        self.served.append(prompt)
        if prompt == "hold":
            self.busy.set()
            while not (self.go.is_set() or cancelled.wait(0.001)):
                yield
        if prompt == "user":
            raise UserError("strength: too much", "strength")
        if prompt == "bug":
            raise RuntimeError("broken")
        if prompt == "quiet":
            return
        send(Done(columns={}, stopped=cancelled.is_set(), tokens=0, seconds=0))

    def step(self) -> None:
        self.steps += 1
        if self.breaks:
            self.breaks = False
            raise RuntimeError("out of memory")

    def reset(self) -> None:
        self.resets += 1

    def report(self, waiting: int, going: int) -> Report:
        return Report(loaded=[], memory=0, limit=1, waiting=waiting, going=going, pid=1, device="cpu")


async def ask(path: Path, prompt: str, seen: list[Event]) -> asyncio.StreamWriter:
    """Send a request and collect its events in the background."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(encode(message(prompt)))

    async def gather() -> None:
        while line := await reader.readline():
            seen.append(decode_event(line))

    kept.append((writer, asyncio.create_task(gather())))
    return writer


kept: list[Any] = []  # an unreferenced connection would be closed, which cancels its request


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def with_queue(tmp_path: Path, max_waiting: int, scene: Callable[[Path, Models], Any], max_active: int = 1) -> None:
    async def play() -> None:
        models, ended, path = Models(), asyncio.Event(), tmp_path / "w.sock"
        requests = asyncio.create_task(RequestQueue(lambda: models, max_waiting, max_active).serve(path, ended))
        await until(path.exists)
        await scene(path, models)
        models.go.set()
        for writer, gathering in kept:
            writer.close()
            await gathering
        kept.clear()
        ended.set()
        await requests
        assert not path.exists()

    asyncio.run(play())


def ends(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, Final)]


def test_faults_are_reported_and_the_next_request_is_served(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        user, bug, fine = [], [], []  # type: ignore[var-annotated]
        for prompt, seen in (("user", user), ("bug", bug), ("fine", fine)):
            await ask(path, prompt, seen)
            await until(lambda seen=seen: ends(seen))
        assert ends(user) == [Failed(message="strength: too much", field="strength")]
        assert "RuntimeError: broken" in ends(bug)[0].message  # type: ignore[union-attr]
        assert isinstance(ends(fine)[0], Done)

    with_queue(tmp_path, 4, scene)


def test_positions_move_up_and_a_request_that_leaves_is_not_served(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        held, left, last = [], [], []  # type: ignore[var-annotated]
        await ask(path, "hold", held)
        await until(models.busy.is_set)
        leaving = await ask(path, "left", left)
        await until(lambda: left)
        await ask(path, "last", last)
        await until(lambda: last)
        assert (left[0], last[0]) == (Queued(position=1), Queued(position=2))
        leaving.close()
        await until(lambda: Queued(position=1) in last)
        models.go.set()
        await until(lambda: ends(last))
        assert models.served == ["hold", "last"]

    with_queue(tmp_path, 4, scene)


def test_a_stop_reaches_the_request_that_is_served(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        held: list[Event] = []
        writer = await ask(path, "hold", held)
        await until(models.busy.is_set)
        writer.write(encode(Stop()))
        await until(lambda: ends(held))
        assert ends(held) == [Done(columns={}, stopped=True, tokens=0, seconds=0)]

    with_queue(tmp_path, 4, scene)


def test_a_full_queue_says_so(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        held, waiting, refused = [], [], []  # type: ignore[var-annotated]
        await ask(path, "hold", held)
        await until(models.busy.is_set)
        await ask(path, "waiting", waiting)
        await until(lambda: waiting)
        await ask(path, "refused", refused)
        await until(lambda: ends(refused))
        assert refused[0].type == "busy"

    with_queue(tmp_path, 1, scene)


def test_a_line_that_is_not_a_request_is_answered(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n")
        answer = decode_event(await reader.readline())
        assert isinstance(answer, Failed)
        assert await reader.read() == b""
        writer.close()

    with_queue(tmp_path, 1, scene)


def test_requests_are_done_at_once_and_a_fault_of_the_step_ends_those_alone(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        held, other, after = [], [], []  # type: ignore[var-annotated]
        await ask(path, "hold", held)
        await until(models.busy.is_set)
        await ask(path, "fine", other)
        await until(lambda: ends(other))  # while the first one is held
        assert not ends(held)
        assert Queued not in map(type, other)
        models.breaks = True
        await until(lambda: ends(held))
        assert "out of memory" in ends(held)[0].message  # type: ignore[union-attr]
        assert models.resets == 1
        await ask(path, "quiet", after)
        await until(lambda: ends(after))
        assert isinstance(ends(after)[0], Failed)

    with_queue(tmp_path, 4, scene, max_active=3)


def test_the_state_is_reported_at_once(tmp_path: Path) -> None:
    async def scene(path: Path, models: Models) -> None:
        held, waiting = [], []  # type: ignore[var-annotated]
        await ask(path, "hold", held)
        await until(models.busy.is_set)
        await ask(path, "waiting", waiting)
        await until(lambda: waiting)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(encode(Status()))
        report = decode_event(await reader.readline())
        assert isinstance(report, Report)
        assert (report.waiting, report.going) == (1, 1)
        writer.close()

    with_queue(tmp_path, 4, scene)


def test_over_tcp_only_clients_with_the_token_are_served() -> None:
    async def play() -> None:
        models, ended = Models(), asyncio.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = Address(host="127.0.0.1", port=port, token="sesame")
        requests = asyncio.create_task(RequestQueue(lambda: models, 4).serve(address, ended))
        answers = []
        for token in ("wrong", "sesame"):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            writer.write(encode(Hello(token=token)) + encode(message()))
            answers.append(decode_event(await reader.readline()))
            while isinstance(answers[-1], Loading):
                answers[-1] = decode_event(await reader.readline())
            writer.close()
        ended.set()
        await requests
        assert isinstance(answers[0], Failed)
        assert "does not know this token" in answers[0].message
        assert isinstance(answers[1], Done)
        assert models.served == ["x"]

    asyncio.run(play())
