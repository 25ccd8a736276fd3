"""The search over ten SAEs: a word, and a text that the model reads.

    python -m benchmarks.search [--latents 65536] [--requests 40] [--json]

The benchmark makes ten synthetic indexes and ten random SAEs of the embedded model (once; the folder stays in the
system's temporary directory).  A fifth of the latents of each have an explanation.  It starts `saescope serve` and asks
its API over one kept-alive connection.  The searches take turns: a rare word (a token, which few explanations name), a
common one (in every third explanation), one that is nowhere, and two words.  Rare words and texts are new each time, so
that no answer comes from a cache; the first requests, which open the indexes and load the SAEs, do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks._report import bar, emit, table
from benchmarks.pages import serving
from sae.autoencoder.artefact import Autoencoder
from sae.explain import results
from sae.explain.records import Explanation
from sae.lm.model_info import DEMO
from sae.workspace.paths import Workspace

N_SAES = 10
THETA = 3.3  # about 32 of 65,536 random latents are above it
WARM_UP = 3
EXPLAINED = 0.2  # of the latents of each SAE
KINDS = ("rare", "common", "nowhere", "two")
_COMMON = ("value", "function", "error", "string", "index", "module")
_RELATIONS = ("that follows", "named after", "passed to", "compared with")
_TEXTS = ("def read(self, path):", "class Node:", "for line in open(name):", "import os, sys", "return None")


def make(root: Path, n_latents: int) -> None:
    """Make the workspace if it does not exist: one index, copied for each SAE, and random weights."""
    workspace, marker = Workspace(root), root / "complete-2"
    if marker.exists():
        return
    shutil.rmtree(root, ignore_errors=True)  # of an earlier version of this benchmark
    first = synthetic.make(root, n_latents, contexts=8, window=32)
    for place in range(N_SAES):
        sae_id = f"demo/big-{place}"
        rng = random.Random(place)
        target = workspace.build(sae_id, synthetic.BUILD_ID).parent
        target.mkdir(parents=True, exist_ok=True)
        for file in (first, first.with_suffix(".arrow")):
            shutil.copy(file, target / file.name)
        _random_sae(workspace, sae_id, n_latents, place)
        explained = sorted(rng.sample(range(n_latents), int(EXPLAINED * n_latents)))
        results.append(workspace.sae(sae_id), [Explanation(one, _said(rng), "model", run="r") for one in explained])
    shutil.rmtree(first.parent)
    shutil.rmtree(workspace.sae(synthetic.SAE_ID))
    marker.touch()


def _random_sae(workspace: Workspace, sae_id: str, n_latents: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W_LD = torch.nn.functional.normalize(torch.randn(n_latents, 256, generator=generator))
    config = json.loads((workspace.sae(synthetic.SAE_ID) / "sae.json").read_text())
    layer = seed % 4
    config |= {"id": sae_id, "model": {"name": DEMO, "id": "demo"},
               "site": {"layer": layer, "hook": f"blocks.{layer}.hook_resid_post"},
               "threshold": {"trained": THETA, "calibrated": THETA}}
    Autoencoder({"W_enc": W_LD.clone(), "b_enc": torch.zeros(n_latents), "W_dec": W_LD, "b_dec": torch.zeros(256),
                 "threshold": torch.tensor([THETA])}, config).save(workspace.sae(sae_id))


def _said(rng: random.Random) -> str:
    """Return an explanation as a model writes them; every third has a given one of the common words."""
    a, b = rng.sample(_COMMON, 2)
    return f"the {a} of a {b} {rng.choice(_RELATIONS)} w{rng.randrange(1, synthetic.VOCABULARY)} in Python code"


def _word(kind: str, rng: random.Random) -> str:
    rare, common = f"w{rng.randrange(1, synthetic.VOCABULARY)}", rng.choice(_COMMON)
    return {"rare": rare, "common": common, "nowhere": f"zq{rng.randrange(10**9)}", "two": f"{common} {rare}"}[kind]


class Api:
    """One kept-alive HTTP connection to the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader, self.writer, self.port = reader, writer, port

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[Any, float]:
        """Return the JSON of the answer, and the seconds."""
        content = json.dumps(body).encode() if body else b""
        started = time.perf_counter()
        self.writer.write((
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\nContent-Length: {len(content)}\r\n\r\n").encode() + content)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        answer = json.loads(await self.reader.readexactly(size))
        elapsed = time.perf_counter() - started
        if not head.startswith("http/1.1 200"):
            raise RuntimeError(f"{path}: {answer}")
        return answer, elapsed


async def measure(port: int, requests: int) -> dict[str, list[float]]:
    """Return the seconds of searches of random words, and of random texts."""
    api = Api(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22), port)
    rng = random.Random(0)
    words: dict[str, list[float]] = {f"word, {kind}": [] for kind in KINDS}
    texts: list[float] = []
    for place in range(WARM_UP + requests):
        for kind in KINDS:
            found, seconds = await api.ask("GET", f"/api/search?q={_word(kind, rng).replace(' ', '%20')}")
            assert bool(found["latents"]) == (kind != "nowhere"), kind
            words[f"word, {kind}"] += [seconds] if place >= WARM_UP else []
    for place in range(WARM_UP + requests // 2):
        text = f"{rng.choice(_TEXTS)}  # {rng.randrange(10**9)}"
        found, seconds = await api.ask("POST", "/api/search/text", {"text": text, "model": "demo"})
        assert len(found["saes"]) == N_SAES
        assert found["latents"]
        texts += [seconds] if place >= WARM_UP else []
    return {"word": [one for some in words.values() for one in some], **words, "text": texts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "saescope-search")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    home = options.folder / str(options.latents)
    make(home, options.latents)
    with serving(home) as port:
        seconds = asyncio.run(measure(port, options.requests))
    figures = {name: {"requests": len(values), "p50_ms": 1e3 * statistics.median(values), "max_ms": 1e3 * max(values)}
               for name, values in seconds.items()}
    if not options.json:
        columns = ["requests", "p50_ms", "max_ms"]
        print(table(["", *columns], [[name, *(f"{row[c]:.1f}" for c in columns)] for name, row in figures.items()]))
    word, text = figures["word"]["p50_ms"], figures["text"]["p50_ms"] / 1e3
    emit("search", figures, [
        bar(f"a word, {N_SAES} SAEs of {options.latents:,} latents, p50 (ms)", word, "≤ 50", word <= 50),
        bar(f"a text, {N_SAES} SAEs of the embedded model, p50 (s)", text, "≤ 1", text <= 1)], options.json)


if __name__ == "__main__":
    main()
