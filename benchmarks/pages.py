"""The speed of the pages of a large index, with server and load generator on the same machine.

    python -m benchmarks.pages [--latents 65536] [--rounds 6] [--growth 1048576] [--json]

The benchmark makes the index with `benchmarks.synthetic` (once; the folder stays in the system's temporary
directory) and starts `saescope serve` on the loopback interface.  Over kept-alive connections it requests
pages of random latents, so that no cache helps, and the latent table with every sort and filter in turns, of which the
server remembers the latest.  Pages of latents are measured in several rounds, because other programs on the machine, or
other machines on its processor, take turns with it.  All rounds are printed, and the fastest counts.  `--growth N`
measures the median of a latent's page on a lean index of 65,536 latents and
on one of N (12 contexts of 64 tokens per latent, several gigabytes).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import synthetic
from benchmarks._report import bar, emit, table
from sae.store.latent_query import DENSITIES, SORTS, TOKEN_SORTS
from sae.store.records import FLAGS

SETTLE = 300  # requests before the measurement: imports, page workers, templates, the first reads of the file
LEAN = {"contexts": 12, "window": 64}


@contextmanager
def serving(home: Path) -> Iterator[int]:
    """Run `saescope serve` on a free port, which the block gets."""
    environment = {**os.environ, "SAESCOPE_HOME": str(home), "PORT": "0", "HOST": "127.0.0.1", "SAESCOPE_DEMO": "false",
                   "SAESCOPE_LOG_LEVEL": "warning"}
    with open(home / "serve.log", "wb") as log:
        server = subprocess.Popen([str(Path(sys.executable).parent / "saescope"), "serve"], env=environment,
                                  stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        try:
            yield next(int(line.rsplit(":", 1)[1].split("/")[0]) for line in server.stdout if "http://" in line)
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)


class Connection:
    """One kept-alive HTTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader, self.writer, self.port = reader, writer, port

    @classmethod
    async def open(cls, port: int, address: str = "127.0.0.1") -> Connection:
        """Connect to the server; `address` is the client's own, on the loopback interface."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, local_addr=(address, 0)), port)

    async def get(self, path: str) -> tuple[bytes, float]:
        """Return the body as it came over the wire, and the seconds."""
        started = time.perf_counter()
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept-Encoding: gzip\r\n"
                          "Accept: text/html\r\n\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        elapsed = time.perf_counter() - started
        if not head.startswith("HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head.splitlines()[0]}: {_plain(body)[-300:]!r}")
        return body, elapsed


def _plain(body: bytes) -> bytes:
    return zlib.decompress(body, 31) if body[:2] == b"\x1f\x8b" else body


async def load(port: int, paths: Sequence[str], connections: int) -> dict[str, float]:
    """Request all paths over the given number of connections, and return the timings and sizes."""
    waiting = list(reversed(paths))
    seconds: list[float] = []
    sizes: list[tuple[int, int]] = []

    async def work() -> None:
        connection = await Connection.open(port)
        while waiting:
            body, elapsed = await connection.get(waiting.pop())
            seconds.append(elapsed)
            if len(sizes) < 50:
                sizes.append((len(_plain(body)), len(body)))
        connection.writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    total = time.perf_counter() - started
    seconds.sort()
    return {"requests": len(seconds), "per_s": len(seconds) / total, "p50_ms": 1e3 * seconds[len(seconds) // 2],
            "p99_ms": 1e3 * seconds[min(int(len(seconds) * 0.99), len(seconds) - 1)], "max_ms": 1e3 * seconds[-1],
            "html_kB": max(plain for plain, _ in sizes) / 1e3, "wire_kB": max(wire for _, wire in sizes) / 1e3}


def latent_paths(n_latents: int, n: int, seed: int) -> list[str]:
    return [f"/{synthetic.SAE_ID}/{latent}" for latent in random.Random(seed).sample(range(n_latents), n)]


def table_paths() -> list[str]:
    """Return addresses of the latent table: every sort both ways, every filter, searches by token and logit."""
    base = f"/{synthetic.SAE_ID}/latents"
    queries = [f"sort={sort}&dir={way}" for sort in SORTS if sort not in TOKEN_SORTS for way in ("asc", "desc")]
    queries += [f"flag={flag}" for flag in FLAGS] + [f"density={name}" for name in DENSITIES]
    queries += [f"flag={flag}&density=1e-3&sort=max&dir=desc" for flag in FLAGS]
    queries += ["token=%2317", "token=%23200&sort=lift&dir=desc", "logit=%2331", "token=w12", "logit=w99"]
    return [f"{base}?{query}" for query in queries]


def measure(home: Path, n_latents: int, requests: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each round, the fastest round first."""
    with serving(home) as port:
        asyncio.run(load(port, latent_paths(n_latents, SETTLE, 0), 16))
        lists = asyncio.run(load(port, 3 * table_paths(), 1))  # a second round would find all of them remembered
        pages = [(asyncio.run(load(port, latent_paths(n_latents, requests, 2 * i + 1), 1)),
                  asyncio.run(load(port, latent_paths(n_latents, 3 * requests, 2 * i + 2), 16))) for i in range(rounds)]
    one, many = ([both[i] for both in pages] for i in range(2))
    return {"latent page, 1 connection": sorted(one, key=lambda row: row["p50_ms"]),
            "latent page, 16 connections": sorted(many, key=lambda row: -row["per_s"]),
            "latent table, 1 connection": [lists]}


def growth(folder: Path, n_latents: int) -> dict[str, float]:
    """Return the median of a latent's page on lean indexes of 65,536 and of `n_latents`."""
    medians = {}
    for size in (65_536, n_latents):
        home = folder / f"lean-{size}"
        synthetic.make(home, size, **LEAN)
        with serving(home) as port:
            asyncio.run(load(port, latent_paths(size, SETTLE, 1), 1))
            medians[str(size)] = asyncio.run(load(port, latent_paths(size, 300, 2), 1))["p50_ms"]
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--requests", type=int, default=500, help="in a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--growth", type=int, default=0, help="also measure the growth of the median to this size")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "saescope-pages")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    home = options.folder / str(options.latents)
    synthetic.make(home, options.latents)
    results: dict[str, Any] = measure(home, options.latents, options.requests, options.rounds)
    if not options.json:
        columns = ["per_s", "p50_ms", "p99_ms", "max_ms", "html_kB", "wire_kB"]
        print(table(["", *columns], [
            [name, *(f"{row[c]:.1f}" for c in columns)] for name, rows in results.items() for row in rows]))
    one, many, lists = (rows[0] for rows in results.values())
    bars = [
        bar("latent page, 1 connection, p50 (ms)", one["p50_ms"], "≤ 12", one["p50_ms"] <= 12),
        bar("latent page, 1 connection, p99 (ms)", one["p99_ms"], "≤ 40", one["p99_ms"] <= 40),
        bar("latent page, 16 connections (pages/s)", many["per_s"], "≥ 150", many["per_s"] >= 150),
        bar("latent page, 16 connections, p99 (ms)", many["p99_ms"], "≤ 300", many["p99_ms"] <= 300),
        bar("latent table, any filter or sort, p99 (ms)", lists["p99_ms"], "≤ 150", lists["p99_ms"] <= 150),
        bar("HTML of a latent page (kB)", one["html_kB"], "≤ 150", one["html_kB"] <= 150)]
    if options.growth:
        medians = growth(options.folder, options.growth)
        few, most = medians.values()
        results["growth"] = medians
        bars.append(bar(f"median latent page, 65,536 to {options.growth:,} latents (ratio)", most / few, "< 1.3",
                        most / few < 1.3))
    emit("pages", results, bars, options.json)


if __name__ == "__main__":
    main()
