"""The server under load: readers, steering users and a training at the same time, and clients that misbehave.

    python -m benchmarks.load [--readers 200] [--steering 8] [--seconds 180] [--json]

The benchmark makes a workspace with a small SAE and its index (once; the folder stays in the system's temporary
directory), starts `saescope serve` on the loopback interface, and a training in its own process, as the server starts
one.  Each reader has a kept-alive connection, requests a page, and reads it for five seconds on average.  Each
steering user starts a run of 32 tokens over the API, follows its events until it is done, and reads the result.
Meanwhile, slow clients send heads byte by byte or do not read their answers, others follow one steering run many times,
and oversized heads and bodies are sent.  Everything ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks._report import bar, emit, table
from benchmarks.pages import Connection, _plain, serving
from benchmarks.wide import memory_mb, server_processes
from sae.runs.folder import RunFolder
from sae.specs.registry import parse_spec
from sae.workspace.paths import Workspace
from sae.workspace.priority import RUN, yield_processor

SAE = "demo/load"
TRAIN: dict[str, Any] = {
    "name": "load", "n_latents": 2048, "k": 16, "tokens": 400_000, "eval_tokens": 4_000, "ce_tokens": 1_024,
    "index_tokens": 300_000, "context_length": 128, "device": "cpu"}
READING_S = 5.0  # on average, for a page
RAMP_S = 10.0  # before pages count
SLOW = 40  # clients that send a head slowly, and as many that do not read
FOLLOWERS = 300  # event streams of one run; the server refuses some of them
UNRULY = "127.0.3.1"  # the address of all clients that misbehave
WORDS = ("self", "return", "import", "raise", "error", "list")


def make_workspace(home: Path) -> None:
    """Train and index the SAE that is read and steered with, unless it is there."""
    if not Workspace(home).build_ids(SAE):
        _run(home, "train-load", "train", TRAIN).wait()


def _run(home: Path, run_id: str, kind: Any, values: dict[str, Any]) -> subprocess.Popen[bytes]:
    folder = RunFolder(Workspace(home).run(run_id))
    folder.create(kind, parse_spec(kind, values).model_dump(mode="json"))
    with open(folder.log, "ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "sae", "run", str(folder.path)], stdout=log, stderr=log,
                                   env={**os.environ, "SAESCOPE_HOME": str(home)}, start_new_session=True)
    yield_processor(process.pid, RUN)
    return process


@contextmanager
def training(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Train an SAE of twice the width until the block ends."""
    name = f"busy-{time.time():.0f}"
    process = _run(home, f"train-{name}", "train", {
        **TRAIN, "name": name, "n_latents": 4096, "tokens": 200_000_000, "index": False})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


class Load:
    """The load of a server, and what it saw."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port, self.counts_from = port, time.monotonic() + RAMP_S
        self.ends = self.counts_from + seconds
        self.pages: list[float] = []
        self.errors: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.memory: list[float] = []
        self.latents: list[int] = []  # those that fire, whose strength has a unit

    @property
    def going(self) -> bool:
        return time.monotonic() < self.ends

    def client(self, address: str) -> httpx.AsyncClient:
        """Return a client with this address and any number of connections."""
        transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_connections=None))
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=120, transport=transport)

    async def guarded(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something until the end of the load; an error is counted, and the work begins again."""
        while self.going:
            try:
                await work()
            except (OSError, RuntimeError, EOFError, httpx.HTTPError) as error:
                if self.going:
                    self.errors[f"{name}: {type(error).__name__}: {error}"[:160]] += 1
                    await asyncio.sleep(0.5)

    async def reader(self, number: int) -> None:
        """Read pages over one connection, which the server closes after five idle seconds."""
        chance = random.Random(number)
        await asyncio.sleep(chance.random() * READING_S)
        address = f"127.0.1.{1 + number % 250}"
        connection, since = await Connection.open(self.port, address), time.monotonic()
        try:
            while self.going:
                if time.monotonic() - since > 4:
                    connection.writer.close()
                    connection = await Connection.open(self.port, address)
                page = _page(chance)
                try:
                    _, seconds = await connection.get(page)
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                        raise
                    connection.writer.close()  # closed before the request was read: asked again, as browsers do
                    self.counts["requests repeated on a new connection"] += 1
                    connection = await Connection.open(self.port, address)
                    _, seconds = await connection.get(page)
                if time.monotonic() - seconds >= self.counts_from:
                    self.pages.append(seconds)
                since = time.monotonic()
                await asyncio.sleep(min(chance.expovariate(1 / READING_S), max(0.0, self.ends - since)))
        finally:
            connection.writer.close()

    async def steering(self, number: int) -> None:
        """Steer, follow the events to the end and read the result."""
        chance = random.Random(1000 + number)
        async with self.client(f"127.0.2.{1 + number % 250}") as client:
            while self.going:
                started = await client.post("/api/steer", json={
                    "latents": [{"sae": SAE, "latent": chance.choice(self.latents), "strength": 3}],
                    "prompt": "def main(", "length": 32, "seed": chance.randrange(10_000)})
                if started.status_code != 201:
                    raise RuntimeError(f"{started.status_code} {started.text[:120]}")
                run_id = started.json()["id"]
                async with client.stream("GET", f"/steer/{run_id}/events") as stream:
                    stream.raise_for_status()
                    async for _ in stream.aiter_lines():
                        pass
                answer = (await client.get(f"/api/steer/{run_id}?wait=60")).json()
                if answer["state"] != "succeeded":
                    raise RuntimeError(f"a run has {answer['state']}: {answer.get('error')}")
                self.counts["steering runs"] += 1

    async def slow_head(self) -> None:
        """Send the head of a request byte by byte until the server closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(UNRULY, 0))
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 10_000:
                writer.write(bytes([byte]))
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 1.0)
                    self.counts["slow heads closed by the server"] += 1
                    return
                if not self.going:
                    return
        except ConnectionError:
            self.counts["slow heads closed by the server"] += 1
        finally:
            writer.close()

    async def never_reads(self) -> None:
        """Ask for large pages and read none of the answers."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((UNRULY, 0))
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        with connection:
            await loop.sock_connect(connection, ("127.0.0.1", self.port))
            with suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(loop.sock_sendall(
                    connection, f"GET /{SAE}/latents?shown=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() * 4), 5)
            self.counts["clients that did not read"] += 1
            await asyncio.sleep(min(20.0, max(0.1, self.ends - time.monotonic())))

    async def followers(self) -> None:
        """Follow one steering run many times at once."""
        async with self.client(UNRULY) as client:
            started = await client.post("/api/steer", json={
                "latents": [{"sae": SAE, "latent": self.latents[0], "strength": 3}], "prompt": "class A",
                "length": 200})
            if started.status_code != 201:
                raise RuntimeError(f"{started.status_code} {started.text[:120]}")

        await asyncio.gather(*(self._follow(started.json()["id"]) for _ in range(FOLLOWERS)))
        await asyncio.sleep(min(20.0, max(0.1, self.ends - time.monotonic())))

    async def _follow(self, run_id: str) -> None:
        """Read the events of a run without an HTTP client, so that the server has more of the processor."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(UNRULY, 0))
        try:
            writer.write(f"GET /steer/{run_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                         "Connection: close\r\n\r\n".encode())
            status = (await reader.readline()).split()[1].decode()
            while await reader.read(1 << 16):
                pass
            self.counts[f"event streams answered {status}"] += 1
        finally:
            writer.close()

    async def oversized(self) -> None:
        """Send too large heads and bodies, which must be refused."""
        async with self.client(UNRULY) as client:
            for name, method, path, more, wanted in (
                    ("head", "GET", "/", {"headers": {"X-Large": "x" * 600_000}}, (400, 431)),
                    ("body", "POST", "/api/steer", {"content": b"{" + b" " * 4_000_000}, (413,))):
                try:
                    status = (await client.request(method, path, **more)).status_code  # type: ignore[arg-type]
                except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                    status = wanted[0]  # the server closed the connection before the whole was sent
                if status not in wanted:
                    raise RuntimeError(f"a too large {name} was answered {status}")
                self.counts[f"too large {name} refused"] += 1
        await asyncio.sleep(min(5.0, max(0.1, self.ends - time.monotonic())))

    async def watch(self, processes: list[psutil.Process]) -> None:
        """Note the memory of the server and its page workers every two seconds."""
        while self.going:
            with suppress(psutil.Error):
                self.memory.append(await asyncio.to_thread(memory_mb, processes))
            await asyncio.sleep(2)


def _page(chance: random.Random) -> str:
    base, latent = f"/{SAE}", chance.randrange(TRAIN["n_latents"])
    return chance.choices(
        [f"{base}/{latent}", f"{base}/latents?sort=density&dir=desc", f"/search?sae={SAE}&q={chance.choice(WORDS)}",
         base, "/", f"{base}/map", f"{base}/tokens", f"{base}/{latent}.json"], [60, 12, 8, 4, 4, 4, 4, 4])[0]


async def read(port: int, home: Path, options: argparse.Namespace) -> Load:
    """Read pages as all readers together, watch the server's memory, and return what was seen."""
    processes = [one for one in server_processes(home) if "sae" not in one.cmdline()]
    load = Load(port, options.seconds)
    await _until_the_end(load, options, load.watch(processes), *(
        load.guarded("reader", lambda number=number: load.reader(number))  # type: ignore[misc]
        for number in range(options.readers)))
    return load


async def use(port: int, options: argparse.Namespace) -> Load:
    """Be the steering users and the clients that misbehave, and return what was seen."""
    load = Load(port, options.seconds)
    connection = await Connection.open(port)
    body, _ = await connection.get(f"/{SAE}/latents.json?sort=density&dir=desc")
    connection.writer.close()
    load.latents = [row["latent"] for row in json.loads(_plain(body))["latents"]]
    work = [load.guarded("steering", lambda number=number: load.steering(number))  # type: ignore[misc]
            for number in range(options.steering)]
    if not options.polite:
        work += [load.guarded("slow head", load.slow_head) for _ in range(SLOW)]
        work += [load.guarded("no reading", load.never_reads) for _ in range(SLOW)]
        work += [load.guarded("followers", load.followers), load.guarded("too large", load.oversized)]
    await _until_the_end(load, options, *work)
    return load


async def _until_the_end(load: Load, options: argparse.Namespace, *work: Coroutine[Any, Any, None]) -> None:
    """Do all of the work at once; what goes on long after the end of the load is cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    _, late = await asyncio.wait(tasks, timeout=RAMP_S + options.seconds + 20)
    for task in late:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            load.errors[f"{type(result).__name__}: {result}"[:160]] += 1


def drive(port: int, home: Path, options: argparse.Namespace) -> Load:
    """Put the server under load and return what all clients saw."""
    others = subprocess.Popen([
        sys.executable, "-m", "benchmarks.load", "--use", str(port), "--seconds", str(options.seconds), "--steering",
        str(options.steering), *["--polite"] * options.polite], stdout=subprocess.PIPE, text=True)
    try:
        load = asyncio.run(read(port, home, options))
        seen = json.loads(others.communicate(timeout=60)[0].splitlines()[-1])
    finally:
        others.kill()
    load.counts.update(seen["counts"])
    load.errors.update(seen["errors"])
    return load


def _part(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--steering", type=int, default=8, help="users that steer")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--polite", action="store_true", help="without the clients that misbehave")
    parser.add_argument("--idle", action="store_true", help="without the training")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "saescope-load")
    parser.add_argument("--use", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.use:
        seen = asyncio.run(use(options.use, options))
        print(json.dumps({"counts": seen.counts, "errors": seen.errors}))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    options.folder.mkdir(parents=True, exist_ok=True)
    make_workspace(options.folder)
    os.environ.update(SAESCOPE_STEERS_PER_MINUTE="100000", SAESCOPE_WORKER_QUEUE="32")
    with serving(options.folder) as port:
        if options.idle:
            load, trained = drive(port, options.folder, options), True
        else:
            with training(options.folder) as process:
                load = drive(port, options.folder, options)
                trained = process.poll() is None
    quarter = max(1, len(load.memory) // 4)
    parts = (load.memory[quarter : 2 * quarter], load.memory[-quarter:])
    early, late = (sum(part) / max(1, len(part)) for part in parts)
    steered = load.counts["steering runs"]
    errors = load.errors.total()
    results = {
        "pages": len(load.pages), "per_s": len(load.pages) / options.seconds, "p50_ms": 1e3 * _part(load.pages, 0.5),
        "p99_ms": 1e3 * _part(load.pages, 0.99), "max_ms": 1e3 * max(load.pages, default=0.0),
        "memory_MB": load.memory, "counts": dict(load.counts), "errors": dict(load.errors), "trained": trained}
    if not options.json:
        shown = {name: value for name, value in results.items() if name != "memory_MB"}
        print(table(["", "value"], [[name, json.dumps(value)] for name, value in shown.items()]))
        print("memory over time (MB):", " ".join(f"{value:.0f}" for value in load.memory[:: max(1, quarter // 5)]))
    bars = [
        bar("errors", errors, "0", errors == 0),
        bar("pages, p99 (ms)", results["p99_ms"], "≤ 400", results["p99_ms"] <= 400),
        bar("memory, last quarter over second (ratio)", late / (early or 1), "≤ 1.1", late <= 1.1 * early),
        bar("steering runs", steered, "≥ 1 a user", steered >= options.steering),
        bar("the training went on", float(trained), "1", trained)]
    emit("load", results, bars, options.json)


if __name__ == "__main__":
    main()
