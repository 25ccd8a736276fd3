"""Tests of the model worker as a real process: it streams, stops, refuses, dies and is restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.worker.client import WorkerClient
from app.worker.protocol import Busy, Done, Event, Failed, Generate, Loading, Progress, Queued, Started
from sae.steering.request import Intervention, Sampling, SteerRequest
from sae.workspace.priority import MODEL_WORKER

SAE_ID = "demo/2-tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_sae: Any) -> Path:
    path = tmp_path_factory.mktemp("saes") / "2-tiny"
    tiny_sae(folder=path)
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerClient]:
    worker = WorkerClient(
        Settings(home=tmp_path_factory.mktemp("home"), worker_threads=1, worker_queue=2, worker_places=2))
    yield worker
    worker.close()


def message(folder: Path, **changes: Any) -> Generate:
    one = Intervention(sae=SAE_ID, layer=2, latent=changes.pop("latent", 9), max_act=8.0,
                       strength=changes.pop("strength", 3.0))
    values = {"model": "demo", "prompt": "def main(", "interventions": (one,), **changes}
    values["sampling"] = Sampling(**values.get("sampling", {"length": 12}))
    return Generate(request=SteerRequest(**values), folders={SAE_ID: str(folder)})


async def collect(client: WorkerClient, job: Generate) -> list[Event]:
    return [event async for event in client.ask(job)]


def test_a_request_streams_loading_prompt_progress_and_the_final_text(client: WorkerClient, folder: Path) -> None:
    events = asyncio.run(collect(client, message(folder)))
    assert isinstance(events[0], Loading)
    assert [type(e) for e in events if isinstance(e, Started)] == [Started]
    final = events[-1]
    assert isinstance(final, Done)
    assert not final.stopped
    assert set(final.columns) == {"baseline", "steered"}
    steered = final.columns["steered"]
    assert steered.finish == "length"
    assert len(steered.ids) == len(steered.pieces) == len(steered.acts) == 12
    started = next(e for e in events if isinstance(e, Started))
    assert b"".join(started.prompt.token_bytes()[1:]) == b"def main("
    seen = [e.columns["steered"].ids for e in events if isinstance(e, Progress)]
    assert all(ids == steered.ids[: len(ids)] for ids in seen)


def test_the_same_request_gives_the_same_text(client: WorkerClient, folder: Path) -> None:
    first, second = (asyncio.run(collect(client, message(folder)))[-1] for _ in range(2))
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert first.columns == second.columns


@pytest.mark.parametrize(("changes", "field", "words"), [
    ({"latent": 48}, "latent", "0 to 47"),
    ({"prompt": "x = 1\n" * 400}, "prompt", "shorten it"),
    ({"model": "/nowhere/at/all"}, "model", "not a directory"),
])
def test_a_user_error_names_its_field(
    client: WorkerClient, folder: Path, changes: dict[str, Any], field: str, words: str,
) -> None:
    final = asyncio.run(collect(client, message(folder, **changes)))[-1]
    assert isinstance(final, Failed)
    assert final.field == field
    assert words in final.message
    assert not final.gone


LONG = {"sampling": {"length": 240, "stop_at_eos": False}}


def test_stop_ends_with_the_text_so_far(client: WorkerClient, folder: Path) -> None:
    async def stopped() -> list[Event]:
        stop = asyncio.Event()
        events = []
        async for event in client.ask(message(folder, **LONG), stop):
            events.append(event)
            if isinstance(event, Progress):
                stop.set()
        return events

    events = asyncio.run(stopped())
    final = events[-1]
    assert isinstance(final, Done)
    assert final.stopped
    assert 0 < len(final.columns["steered"].ids) < 240


def test_waiting_requests_get_their_position_and_one_too_many_is_refused(
    client: WorkerClient, folder: Path,
) -> None:
    async def many() -> list[list[Event]]:
        return await asyncio.gather(*(collect(client, message(folder, sampling={"length": 100})) for _ in range(6)))

    asyncio.run(collect(client, message(folder)))  # loads the model
    runs = asyncio.run(many())
    positions = {e.position for events in runs for e in events if isinstance(e, Queued)}
    assert positions == {1, 2}
    finals = [type(events[-1]) for events in runs]
    assert Busy in finals
    assert finals.count(Done) >= 4  # two at once, two waiting
    assert set(finals) == {Done, Busy}


def test_a_client_that_leaves_does_not_hold_the_worker(client: WorkerClient, folder: Path) -> None:
    async def leave_early() -> None:
        events = client.ask(message(folder, **LONG))
        async for event in events:
            if isinstance(event, Progress):
                break
        await events.aclose()  # type: ignore[attr-defined]
        final = (await collect(client, message(folder)))[-1]
        assert isinstance(final, Done)

    asyncio.run(leave_early())


def test_sigkill_in_the_middle_is_reported_and_the_next_request_works(client: WorkerClient, folder: Path) -> None:
    async def killed() -> list[Event]:
        events = []
        async for event in client.ask(message(folder, **LONG)):
            events.append(event)
            if isinstance(event, Progress) and client.pid is not None:
                ours = os.getpriority(os.PRIO_PROCESS, 0)
                assert os.getpriority(os.PRIO_PROCESS, client.pid) == min(19, ours + MODEL_WORKER), "pages come first"
                os.kill(client.pid, signal.SIGKILL)
        return events

    final = asyncio.run(killed())[-1]
    assert isinstance(final, Failed)
    assert final.gone
    assert "signal 9" in final.message
    assert isinstance(asyncio.run(collect(client, message(folder)))[-1], Done)


def test_the_worker_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", f"""
import sys, time
from pathlib import Path
from app.settings import Settings
from app.worker.client import WorkerClient
client = WorkerClient(Settings(home=Path({str(tmp_path)!r})))
socket = client._ensure()
while not socket.exists(): time.sleep(0.02)
print(client.pid, flush=True)
time.sleep(60)
"""], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").exists() and _state(pid) != "Z":
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.02)
    assert not list(tmp_path.glob("*.sock"))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_long_workspace_path_gets_a_short_socket(tmp_path: Path, folder: Path) -> None:
    home = tmp_path / ("deep" * 20) / ("down" * 20)
    worker = WorkerClient(Settings(home=home, worker_threads=1))
    try:
        assert isinstance(asyncio.run(collect(worker, message(folder, sampling={"length": 1})))[-1], Done)
        socket = worker._socket
        assert socket is not None
        assert home not in socket.parents
        assert socket.stat().st_mode & 0o077 == 0
    finally:
        worker.close()
    assert not socket.parent.exists()


def test_a_worker_that_cannot_start_says_why(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = WorkerClient(Settings(home=tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    final = asyncio.run(collect(worker, message(folder)))[-1]
    worker.close()
    assert isinstance(final, Failed)
    assert final.gone
    assert "ended while it was starting" in final.message
