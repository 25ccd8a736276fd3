"""One training step of saescope, of other trainers, and the bare encoder product, in turns on the same activations.

    python -m benchmarks.train_step             about 10 minutes on two cores
    python -m benchmarks.train_step --no-peer   without other trainers
    python -m benchmarks.train_step --write     also write the tables to benchmarks/results

The SAE is BatchTopK with D = 768, L = 12,288, k = 32 and batches of 4,096.  Activations are sums of a few of 1,536
planted directions and noise.  A round has some steps of each in turn; medians over all rounds are compared.
Every trainer and every size runs in a separate process, so peak memory (resident, or allocated on a GPU) is
for one trainer with its libraries.  SAELens 6.54.12 runs in its own environment, which is made if it
is missing, in float32, with autocast, and with `use_sparse_activations`, with the same steps as its `SAETrainer.fit`;
the fastest of them counts.  dictionary_learning 0.1.0 (BatchTopK) and sparsify 1.3.3 (TopK) run in another one, on
the CPU, in float32 and with autocast.  The bare product is the plain `x @ W.T` in bfloat16.  It is also measured
with the result written to existing memory, as saescope's step does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._report import bar, bars_table, emit, table, write
from benchmarks._workers import Worker, saelens, trainers

D_MODEL, N_LATENTS, K, BATCH = 768, 12_288, 32, 4096
GPU_LATENTS = (12_288, 24_576, 131_072)
LATENTS, KS = (3072, 6144, 12_288, 24_576, 49_152), (16, 32, 64)
PEERS: dict[str, dict[str, dict[str, Any]]] = {
    "SAELens, float32": {"sae": {}, "trainer": {}},
    "SAELens, autocast": {"sae": {}, "trainer": {"autocast": True}},
    "SAELens, float32, sparse option": {"sae": {"use_sparse_activations": True}, "trainer": {}},
}
OTHERS = {f"{library}, {precision}": {"library": library, "autocast": precision == "autocast"}
          for library in ("dictionary_learning", "sparsify") for precision in ("float32", "autocast")}
Figures = dict[str, Any]


def activations(n: int, seed: int = 0) -> np.ndarray:
    """Return activations [n, D], float32: each is a sum of some of 2·D directions, common and rare, and noise."""
    generator = torch.Generator().manual_seed(seed)
    directions_FD = torch.randn(2 * D_MODEL, D_MODEL, generator=generator) / D_MODEL**0.5
    share_F = 0.3 / (1 + torch.arange(2 * D_MODEL)) ** 0.5
    strength_NF = torch.rand(n, 2 * D_MODEL, generator=generator) + 0.5
    strength_NF *= torch.rand(n, 2 * D_MODEL, generator=generator) < share_F
    x_ND: np.ndarray = (10 * strength_NF @ directions_FD + torch.randn(n, D_MODEL, generator=generator)).numpy()
    return x_ND


def ours(data: str, device: str, n_latents: int = N_LATENTS, k: int = K) -> Worker:
    worker = Worker(sys.executable, "-m", "benchmarks._step_worker")
    worker.ask(make={"architecture": "batch_topk", "n_latents": n_latents, "k": k, "batch_tokens": BATCH, "lr": 3e-4,
                     "tokens": 1000 * BATCH, "dead_after_tokens": 10_000_000}, data=data, device=device)
    return worker


def peer(data: str, device: str, setting: dict[str, dict[str, Any]], n_latents: int = N_LATENTS) -> Worker:
    worker = saelens()
    worker.ask(make={
        "architecture": "batchtopk", "seed": 0,
        "sae": {"d_sae": n_latents, "k": K, **setting["sae"]},
        "trainer": {"total_training_samples": 1000 * BATCH, "train_batch_size_samples": BATCH, "lr": 3e-4,
                    **setting["trainer"]}}, data=data, device=device)
    return worker


def other(data: str, asked: dict[str, Any]) -> Worker:
    worker = trainers()
    worker.ask(make={"d_sae": N_LATENTS, "k": K, "batch_tokens": BATCH, **asked}, data=data, device="cpu")
    return worker


def against(data: str, device: str, rounds: int, with_peer: bool, n_latents: int = N_LATENTS) -> list[Figures]:
    """Measure saescope, the bare product and the peer's settings in turns; return medians and peak memory."""
    peers = PEERS if with_peer else {}
    others = OTHERS if with_peer and device == "cpu" else {}
    workers = {"saescope": ours(data, device, n_latents), "product": ours(data, device, n_latents),
               **{name: peer(data, device, setting, n_latents) for name, setting in peers.items()},
               **{name: other(data, asked) for name, asked in others.items()}}
    seconds: dict[str, list[float]] = {}
    for turn in range(-1, rounds):  # the first round is a warm-up
        for name, worker in workers.items():
            few = 5 if name in ("saescope", "product") else 1
            if name == "product":
                answer = worker.ask(product=2 * few)
                found = {"bare product, x @ W.T": answer["fresh"], "bare product into kept memory": answer["kept"]}
            else:
                found = {name: worker.ask(steps=few)["seconds"]}
            for kind, some in found.items():
                seconds.setdefault(kind, []).extend(some if turn >= 0 else [])
    out = []
    for kind, some in seconds.items():
        memory = workers[kind].ask(memory=True) if kind in workers else {}
        out.append({"what": kind, "seconds": statistics.median(some), "fastest": min(some), **memory})
    for worker in workers.values():
        worker.__exit__(None, None, None)
    return out


def sweep(data: str, device: str, steps: int) -> list[Figures]:
    """Measure saescope's step by L and by k in two rounds, each in a separate process."""
    sizes = list(dict.fromkeys([(n, K) for n in LATENTS] + [(N_LATENTS, k) for k in KS]))
    seconds: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
    memory: dict[tuple[int, int], float] = {}
    for _ in range(2):
        for n_latents, k in sizes:
            with ours(data, device, n_latents, k) as worker:
                worker.ask(steps=2)
                seconds[n_latents, k] += worker.ask(steps=steps)["seconds"]
                memory[n_latents, k] = worker.ask(memory=True)["peak_mb"]
    return [{"n_latents": n, "k": k, "seconds": statistics.median(seconds[n, k]), "fastest": min(seconds[n, k]),
             "peak_mb": memory[n, k]} for n, k in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8, help="steps of each size of the sweep, twice")
    parser.add_argument("--no-peer", action="store_true", help="without other trainers")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "x.npy")
        np.save(data, activations(4 * BATCH))
        rows = against(data, "cpu", options.rounds, not options.no_peer)
        sizes = sweep(data, "cpu", options.steps)
        gpu = {n: against(data, "cuda", options.rounds, not options.no_peer, n) for n in GPU_LATENTS
               if torch.cuda.is_available()}
    goals = bars(rows, sizes) + gpu_bars(gpu)
    tables = f"{text(rows, sizes)}\n\n{gpu_text(gpu)}"
    if not options.json:
        print(tables)
    emit("train_step", {"against": rows, "sweep": sizes, "gpu": gpu}, goals, options.json)
    if options.write:
        write("train_step", "One training step", __doc__ or "", tables + "\n\n" + bars_table(goals))


def bars(rows: list[Figures], sizes: list[Figures]) -> list[dict[str, Any]]:
    """Return the goals on the CPU."""
    of = {row["what"]: row for row in rows}
    step, product = of["saescope"], of["bare product, x @ W.T"]
    peers = [row for row in rows if row["what"] in PEERS]
    out = []
    if peers:
        faster = faster_peer(rows)
        out += [
            _at_least("tokens/s relative to the fastest SAELens", faster["seconds"] / step["seconds"], 12),
            _at_most("peak memory relative to the fastest SAELens", step["peak_mb"] / faster["peak_mb"], 0.5)]
    # A unit for matrices makes the product alone faster.
    limit = 2 if torch.cpu.get_capabilities().get("amx_tile") else 1.35
    out.append(_at_most("step over the bare bfloat16 product", step["seconds"] / product["seconds"], limit))
    by_L = {row["n_latents"]: row["seconds"] for row in sizes if row["k"] == K}
    growth = [(by_L[large] / by_L[small]) / (large / small) for small in LATENTS for large in LATENTS if small < large]
    out.append(_at_most("growth with L over linear growth, the worst of all pairs", max(growth), 1))
    by_k = {row["k"]: row["seconds"] for row in sizes if row["n_latents"] == N_LATENTS}
    out.append(_at_most("step at k = 64 over step at k = 16", by_k[64] / by_k[16], 1.6))
    return out


def faster_peer(rows: list[Figures]) -> Figures:
    """Return SAELens at the fastest of its settings."""
    return min((row for row in rows if row["what"] in PEERS), key=lambda row: float(row["seconds"]))


def gpu_bars(gpu: dict[int, list[Figures]]) -> list[dict[str, Any]]:
    """Return the goals on a GPU; none without one."""
    return [_at_least(f"on the GPU at L = {n:,}: tokens/s relative to the fastest SAELens",
                      faster_peer(rows)["seconds"] / rows[0]["seconds"], 5)
            for n, rows in gpu.items() if any(row["what"] in PEERS for row in rows)]


def gpu_text(gpu: dict[int, list[Figures]]) -> str:
    """Return the table of the figures on a GPU, by size."""
    absent = "not measured: no CUDA device"
    return "On a GPU, bfloat16 products:\n\n" + table(["L", "what", "ms (median)", "tokens/s", "peak MB"], [
        [f"{n:,}", row["what"], f"{1e3 * row['seconds']:.2f}", f"{BATCH / row['seconds']:,.0f}",
         f"{row['peak_mb']:,.0f}" if "peak_mb" in row else "–"]
        for n in GPU_LATENTS for row in gpu.get(n, [])] or
        [[f"{n:,}", what, absent, absent, absent] for n in GPU_LATENTS for what in ("saescope", *PEERS)])


def _at_most(name: str, value: float, limit: float) -> dict[str, Any]:
    return bar(name, value, f"≤ {limit:g}", value <= limit)


def _at_least(name: str, value: float, limit: float) -> dict[str, Any]:
    return bar(name, value, f"≥ {limit:g}", value >= limit)


def text(rows: list[Figures], sizes: list[Figures]) -> str:
    """Return the tables of the comparison and of the sizes."""
    product = next(row["seconds"] for row in rows if row["what"].startswith("bare product, "))
    first = table(["BatchTopK, L = 12,288, k = 32, B = 4,096", "ms (median)", "fastest", "tokens/s", "bare products",
                   "peak MB", "of which imports"], [
        [row["what"], f"{1e3 * row['seconds']:.1f}", f"{1e3 * row['fastest']:.1f}", f"{BATCH / row['seconds']:,.0f}",
         f"{row['seconds'] / product:.2f}", f"{row['peak_mb']:,.0f}" if "peak_mb" in row else "–",
         f"{row['imported_mb']:,.0f}" if "peak_mb" in row else "–"] for row in rows])
    second = table(["L", "k", "ms (median)", "fastest", "tokens/s", "peak MB"], [
        [f"{row['n_latents']:,}", row["k"], f"{1e3 * row['seconds']:.1f}", f"{1e3 * row['fastest']:.1f}",
         f"{BATCH / row['seconds']:,.0f}", f"{row['peak_mb']:,.0f}"] for row in sizes])
    return f"{first}\n\nsaescope's step by size:\n\n{second}"


if __name__ == "__main__":
    main()
