"""The pages of an index of millions of latents: each page's first and later times, and the server's memory.

    python -m benchmarks.wide [--latents 4194304] [--every 1] [--json]

The benchmark makes the index with `benchmarks.synthetic` (once; the folder stays in the system's temporary
directory), with two contexts of 16 tokens a latent.  `--every 8` gives its lists and contexts to one latent in
eight, and to the others their numbers alone, so that an index of 16,777,216 latents takes 12 GB.  One connection
requests each kind of page after the other.  The first request of a kind includes what the server keeps for later ones.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import synthetic
from benchmarks._report import bar, emit, table
from benchmarks.pages import Connection, _plain, serving, table_paths

SLOWEST_MS = 400.0  # of a page after its kind's first one
LEAN = {"contexts": 2, "window": 16}
WORDS = ("w12", "w99", "w1000", "w12 w40", "number")


def kinds(n_latents: int, every: int, n: int) -> dict[str, list[str]]:
    """Return the addresses of each kind of page."""
    chance, base = random.Random(1), f"/{synthetic.SAE_ID}"

    def latents() -> list[int]:
        return [every * chance.randrange(n_latents // every) for _ in range(n)]

    zooms = [f"zoom={zoom}&x={chance.random():.4f}&y={chance.random():.4f}" for zoom in (1, 2, 8, 64) for _ in range(3)]
    return {
        "overview": [base] * 4,
        "latent page": [f"{base}/{latent}" for latent in latents()],
        "its JSON": [f"{base}/{latent}.json" for latent in latents()],
        "table": [f"{base}/latents"] * 4,
        "table, every sort and filter": [path for path in table_paths() if "logit=" not in path],
        "table under a logit": [f"{base}/latents?logit=%23{token}" for token in (31, 99, 1000, 4000)],
        "latent page within a sort": [f"{base}/{latent}?sort=density&dir=desc" for latent in latents()[:12]],
        "search of a word": [f"/search?sae={synthetic.SAE_ID}&q={word.replace(' ', '+')}" for word in WORDS * 2],
        "search over all SAEs": [f"/search?q={word.replace(' ', '+')}" for word in WORDS],
        "map": [f"{base}/map?{zoom}" for zoom in zooms],
        "map, by explanation": [f"{base}/map?colour=explained&{zoom}" for zoom in zooms[:6]],
        "map, by cluster": [f"{base}/map?colour=cluster&{zoom}" for zoom in zooms[:6]],
        "map, search of a word": [f"{base}/map?q={word}" for word in ("w12", "w99")],
        "latents per token": [f"{base}/tokens"] * 4,
        "random latents": [f"{base}/latents?flag={flag}&sort=phi&dir=desc" for flag in ("rare", "dense", "capital")],
        "home": ["/"] * 4,
    }


async def visit(port: int, paths: list[str], processes: list[psutil.Process]) -> dict[str, float]:
    """Return the milliseconds of the first, the median and the slowest later request, the largest page in kB, and the
    milliseconds of CPU time that the server's processes took for a later request.
    """
    connection = await Connection.open(port)
    took, largest, began = [], 0, 0.0
    for path in paths:
        body, seconds = await connection.get(path)
        began = began if took else cpu_s(processes)
        took.append(1e3 * seconds)
        largest = max(largest, len(_plain(body)))
    connection.writer.close()
    later = sorted(took[1:])
    return {"first_ms": took[0], "p50_ms": later[len(later) // 2], "max_ms": later[-1],
            "cpu_ms": 1e3 * (cpu_s(processes) - began) / len(later), "kB": largest / 1e3}


def server_processes(home: Path) -> list[psutil.Process]:
    """Return the server on this workspace and its page workers."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SAESCOPE_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds that the processes have taken so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def memory_mb(processes: list[psutil.Process]) -> float:
    """Return the private memory of the processes, without mapped files."""
    return sum(process.memory_full_info().uss for process in processes) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=4_194_304)
    parser.add_argument("--every", type=int, default=1, help="one latent in so many has lists and contexts")
    parser.add_argument("--requests", type=int, default=60, help="pages of latents")
    parser.add_argument("--only", default="", help="the kinds of pages with this in their name")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "saescope-wide")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    home = options.folder / f"{options.latents}-{options.every}"
    build = synthetic.make(home, options.latents, every=options.every, **LEAN)
    results, started = {}, time.monotonic()
    with serving(home) as port:
        processes = server_processes(home)
        for name, paths in kinds(options.latents, options.every, options.requests).items():
            if options.only in name:
                results[name] = asyncio.run(visit(port, paths, processes)) | {"MB": memory_mb(processes)}
                if not options.json:
                    print(f"{name}: {results[name]}", flush=True)
    sizes = {path.suffix: path.stat().st_size / 1e9 for path in build.parent.iterdir()}
    if not options.json:
        columns = ["first_ms", "p50_ms", "max_ms", "cpu_ms", "kB", "MB"]
        print(f"{options.latents:,} latents; GB: {sizes}; {time.monotonic() - started:.0f} s\n")
        print(table(["", *columns], [[name, *(f"{row[c]:,.0f}" for c in columns)] for name, row in results.items()]))
    bars = [bar(f"{name}, slowest after the first (ms)", row["max_ms"], f"≤ {SLOWEST_MS:.0f}",
                row["max_ms"] <= SLOWEST_MS) for name, row in results.items()]
    emit("wide", results, bars, options.json)


if __name__ == "__main__":
    main()
