"""The speed of steering and inspection: time to the first token, and tokens per second for one user and for several.

    python -m benchmarks.steering --model <folder>      # the embedded model and another one
    python -m benchmarks.steering --users 32 --seconds 60   # many users at once, checked against single requests

Times are measured at the model worker's client, with a separate worker process as the pages use it, from the
request to the events.  The SAE is random, BatchTopK with per-token layer norm, 4,096 latents, in the
middle of the model.  A request steers one latent and has two columns.  Hugging Face `generate` runs on the same
model in this process, unsteered, with the same sampling settings.  Each has the threads that it uses by default: all
cores for Hugging Face, half of them for the worker, which leaves the others to a training run.  On a GPU the benchmark
also measures a random Llama of 1 billion parameters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.settings import Settings
from app.worker.client import WorkerClient
from app.worker.protocol import Done, Event, Failed, Final, Generate, Inspect, Inspected, Progress, Warm
from benchmarks._report import bar, emit, table
from sae.autoencoder.artefact import Autoencoder
from sae.lm.model_info import DEMO, find_model
from sae.steering.measurement_requests import InspectRequest
from sae.steering.request import MODES, Intervention, Sampling, SteerRequest

LATENTS = 4096
LENGTH = 64
ROUNDS = 15
USERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", action="append", default=[], help="folder of another model to measure as well")
    parser.add_argument("--users", type=int, default=0, help="instead: check this many users at once")
    parser.add_argument("--seconds", type=float, default=60, help="with --users: the duration")
    parser.add_argument("--threads", type=int, default=0,
                        help="CPU threads of both; 0: the worker's default, and all cores for Hugging Face")
    options = parser.parse_args()
    threads = options.threads
    torch.set_num_threads(threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as home:
        if options.users:
            results, bars = crowd(Path(home), options.users, options.seconds, threads)
        else:
            results, bars = {}, []
            names = [DEMO, *options.model]
            for name in names:
                results[find_model(name).id] = figures = measure(Path(home), name, threads, "cpu")
                bars += bars_of(find_model(name).id, figures)
            results["cuda"] = on_gpu(Path(home), threads)
    if not options.json:
        show(results)
    emit("steering", results, bars, options.json)


# ---- measurements


def measure(home: Path, name: str, threads: int, device: str) -> dict[str, float]:
    """Return all figures of one model."""
    folder = random_sae(home, name)
    with worker(home, threads, device) as client:
        asyncio.run(last(client, Warm(model=name, folders={"bench/sae": str(folder)})))
        for seed in range(2):
            asyncio.run(last(client, request(name, folder, seed)))
        first = statistics.median(asyncio.run(first_token(client, request(name, folder, n))) for n in range(ROUNDS))
        one, hugging, many = [], [], []
        generate = hugging_face(name, device)
        for n in range(ROUNDS):  # in turns, so that other load on the machine affects all of them
            one.append(asyncio.run(rate(client, [request(name, folder, n)])))
            hugging.append(generate(n))
            many.append(asyncio.run(rate(client, [request(name, folder, 100 * n + i) for i in range(USERS)])))
        inspecting = [asyncio.run(inspect_seconds(client, name, folder)) for _ in range(ROUNDS + 1)][1:]
    return {
        "first_token_ms": 1000 * first, "steered_tokens_per_s": statistics.median(one),
        "hugging_face_tokens_per_s": statistics.median(hugging),
        "steered_over_hugging_face": statistics.median(a / b for a, b in zip(one, hugging, strict=True)),
        f"{USERS}_users_tokens_per_s": statistics.median(many),
        f"{USERS}_users_over_one": statistics.median(a / b for a, b in zip(many, one, strict=True)),
        "inspect_512_ms": 1000 * statistics.median(inspecting)}


def bars_of(name: str, f: dict[str, float]) -> list[dict[str, Any]]:
    many = f[f"{USERS}_users_over_one"]
    return [
        bar(f"{name}: first token after the request (ms)", f["first_token_ms"], "≤ 150", f["first_token_ms"] <= 150),
        bar(f"{name}: steered, both columns, over Hugging Face's generate", f["steered_over_hugging_face"], "≥ 1.25",
            f["steered_over_hugging_face"] >= 1.25),
        bar(f"{name}: {USERS} users over one (tokens/s)", many, "≥ 4", many >= 4),
        bar(f"{name}: inspecting 512 tokens (ms)", f["inspect_512_ms"], "≤ 300", f["inspect_512_ms"] <= 300)]


def request(name: str, folder: Path, seed: int, **changes: Any) -> Generate:
    one = Intervention(sae="bench/sae", layer=layer_of(name), latent=seed % LATENTS, strength=1.0, max_act=4.0)
    values: dict[str, Any] = {
        "model": name, "prompt": "Once upon a time there was a function that", "interventions": (one,),
        "sampling": Sampling(length=LENGTH, seed=seed, stop_at_eos=False), **changes}
    return Generate(request=SteerRequest(**values), folders={"bench/sae": str(folder)})


async def last(client: WorkerClient, message: Any) -> Event:
    """Return the final event of a request.  Raises SystemExit if it is a failure."""
    async for event in client.ask(message):
        if isinstance(event, Failed):
            raise SystemExit(f"the worker failed: {event.message}")
        if isinstance(event, Final):
            return event
    raise SystemExit("the worker sent no final event")


async def first_token(client: WorkerClient, message: Generate) -> float:
    started = time.perf_counter()
    async for event in client.ask(message):
        if isinstance(event, (Progress, *Final)):
            return time.perf_counter() - started
    return float("nan")


async def rate(client: WorkerClient, messages: list[Generate]) -> float:
    """Return the tokens per second of concurrent requests, in all columns, until the texts are complete."""
    started = time.perf_counter()
    finals = await asyncio.gather(*(last(client, message) for message in messages))
    # `seconds` excludes the KL, which is measured after the text; with several requests, the last text counts.
    ends = max(final.seconds for final in finals if isinstance(final, Done))
    assert ends <= time.perf_counter() - started
    return sum(final.tokens for final in finals if isinstance(final, Done)) / ends


async def inspect_seconds(client: WorkerClient, name: str, folder: Path) -> float:
    """Return the seconds for inspecting 512 tokens, in one text if the model's context allows it."""
    info = find_model(name)
    size = min(512, info.n_ctx)
    ids = tuple((0, *(1 + (7 * i + t) % (info.d_vocab - 1) for i in range(size - 1))) for t in range(512 // size))
    asked = InspectRequest(model=name, saes=("bench/sae",), ids=ids)
    started = time.perf_counter()
    final = await last(client, Inspect(request=asked, folders={"bench/sae": str(folder)}))
    assert isinstance(final, Inspected)
    return time.perf_counter() - started


def hugging_face(name: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = find_model(name).source
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).to(device).eval()
    ids = AutoTokenizer.from_pretrained(source)("Once upon a time there was a function that", return_tensors="pt")
    tokens = ids["input_ids"].to(device)

    def tokens_per_s(seed: int) -> float:
        torch.manual_seed(seed)
        started = time.perf_counter()
        model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=LENGTH, min_new_tokens=LENGTH,
                       do_sample=True, temperature=0.7, top_p=0.95, top_k=0, pad_token_id=0)
        return LENGTH / (time.perf_counter() - started)

    tokens_per_s(0)
    return tokens_per_s


# ---- many users, whose results are compared with single requests


def crowd(home: Path, users: int, seconds: float, threads: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Let `users` send different requests for `seconds`, then repeat each request alone and compare the results."""
    folder = random_sae(home, DEMO)
    with worker(home, threads, "cpu") as client:
        asyncio.run(last(client, varied(folder, 0)))
        memory, slowest = [resident_mb(client)], [0.0]
        results: dict[int, Done] = {}

        async def user(number: int, until: float) -> None:
            seed = number
            while time.monotonic() < until:
                started = time.monotonic()
                final = await last(client, varied(folder, seed))
                assert isinstance(final, Done)
                results[seed] = final
                slowest[0] = max(slowest[0], time.monotonic() - started)
                seed += users

        async def watch(until: float) -> None:
            while time.monotonic() < until:
                await asyncio.sleep(0.5)
                memory.append(resident_mb(client))

        async def all_users() -> None:
            until = time.monotonic() + seconds
            await asyncio.gather(watch(until), *(user(n, until) for n in range(users)))

        asyncio.run(all_users())
        wrong = [seed for seed, final in results.items()
                 if asyncio.run(last(client, varied(folder, seed))).columns != final.columns]  # type: ignore[union-attr]
    quarter = max(len(memory) // 4, 1)
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    figures = {
        "users": users, "seconds": seconds, "requests": len(results), "slowest_s": slowest[0], "differ": len(wrong),
        "tokens_per_s": sum(final.tokens for final in results.values()) / seconds,
        "memory_second_quarter_mb": early, "memory_last_quarter_mb": late}
    return figures, [
        bar(f"results of {users} users that differ from single requests", len(wrong), "0", not wrong),
        bar("memory, last quarter over second", late / early, "≤ 1.05", late <= 1.05 * early)]


def varied(folder: Path, seed: int) -> Generate:
    """Return a random request that depends on the seed."""
    rng = random.Random(seed)
    latents = rng.sample(range(LATENTS), rng.randint(1, 3))
    interventions = tuple(
        Intervention(sae="bench/sae", layer=layer_of(DEMO), latent=latent, mode=rng.choice(list(MODES)),
                     strength=rng.uniform(-2, 2), max_act=4.0) for latent in latents)
    words = ["def ", "import os", "\n", "self.", "é", "return x", "# note "]
    prompt = "".join(rng.choices(words, k=rng.randint(1, 40)))
    sampling = Sampling(length=rng.randint(5, 80), seed=seed, temperature=rng.choice([0, 0.7, 1]))
    return request(DEMO, folder, seed, prompt=prompt, interventions=interventions, sampling=sampling,
                   columns=rng.choice([("baseline", "steered"), ("baseline", "steered", "control")]))


def resident_mb(client: WorkerClient) -> float:
    status = Path(f"/proc/{client.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


# ---- workers, SAEs and models


@contextmanager
def worker(home: Path, threads: int, device: str) -> Iterator[WorkerClient]:
    client = WorkerClient(Settings(home=home, worker_threads=threads, worker_device=device, worker_queue=64))
    try:
        yield client
    finally:
        client.close()


def layer_of(name: str) -> int:
    return find_model(name).n_layers // 2


def random_sae(home: Path, name: str) -> Path:
    """Save an SAE of the model's size whose latents fire occasionally, and return its folder."""
    info, generator = find_model(name), torch.Generator().manual_seed(0)
    W_LD = torch.randn(LATENTS, info.d_model, generator=generator)
    W_LD /= W_LD.norm(dim=1, keepdim=True)
    layer, folder = layer_of(name), home / f"sae-{info.id}"
    Autoencoder(
        {"W_enc": W_LD.clone(), "b_enc": torch.zeros(LATENTS), "W_dec": W_LD, "b_dec": torch.zeros(info.d_model),
         "threshold": torch.tensor([2.5])},
        {"schema_version": 1, "id": "bench/sae", "model": {"name": name, "id": info.id},
         "site": {"layer": layer, "hook": f"blocks.{layer}.hook_resid_post"}, "architecture": "batch_topk",
         "n_latents": LATENTS, "d_model": info.d_model, "k": 32, "normalize": "layer_norm", "weight_processing": "raw",
         "bos": {"prepended": True, "trained_on": True}, "context_length": 128, "threshold": {"trained": 2.5},
         "metrics": {}, "training": {}, "run": "none", "created": 0.0, "saescope_version": "0"}).save(folder)
    return folder


def on_gpu(home: Path, threads: int) -> dict[str, float] | str:
    """Measure a random model of a billion parameters, if there is a GPU."""
    if not torch.cuda.is_available():
        return "not measured: no GPU here"
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    folder = home / "llama-1b"
    config = LlamaConfig(
        vocab_size=8192, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    with torch.device("cuda"):
        LlamaForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(find_model(DEMO).source) / file, folder)
    return measure(home, str(folder), threads, "cuda")


def show(results: dict[str, Any]) -> None:
    for name, figures in results.items():
        if isinstance(figures, dict):
            print(f"\n{name}\n\n" + table(["figure", "value"], [[k, f"{v:.4g}"] for k, v in figures.items()]))
        else:
            print(f"{name}: {figures if isinstance(figures, str) else json.dumps(figures)}")


if __name__ == "__main__":
    main()
