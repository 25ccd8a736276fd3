"""The GPU path on one machine, in one run: is it right, how fast is it, and how far from the predictions.

    benchmarks/gpu.sh              everything; parts that would end after 8 minutes are left out and named
    benchmarks/gpu.sh --dry-run    small sizes on a pretended device, to test this script; no figure means anything

Parts, in this order:

    steps        three training steps of every architecture on the device and on the CPU: the largest difference
    waits        a BatchTopK step under torch's own search for synchronisations, and its launches by torch's profiler
    kernels      the time of each kernel, torch's time, and the share of the device's rate (`benchmarks.kernels`)
    training     a training step at L = 12,288, 24,576 and 131,072, the bare product, and SAELens' step if it is there
    index        an index of the demo model with a random SAE of 24,576 latents
    decode       steered texts of the demo model, one and eight at once

A part that fails is reported with its error, and the others go on.  `docs/decisions/gpu-design.md` has the predictions.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import kernels, train_step
from benchmarks._peers import PEERS
from benchmarks._report import commit, machine, table, write
from benchmarks._step_worker import Stepper
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.specs.registry import TrainSpec
from sae.training.trainer import SAETrainer

LIMIT_S = 460.0
RULES: tuple[dict[str, Any], ...] = (
    {"architecture": "batch_topk"}, {"architecture": "topk"}, {"architecture": "matryoshka"},
    {"architecture": "jumprelu"}, {"architecture": "gated"}, {"architecture": "relu"},
    {"architecture": "batch_topk", "multi_topk": True})
# Predicted milliseconds of a BatchTopK step on an H200, at B = 4096, D = 768, k = 32 (docs/decisions/gpu-design.md).
PREDICTED_MS = {12_288: 0.9, 24_576: 1.4, 131_072: 5.5}


@dataclass(frozen=True)
class Sizes:
    """The sizes of the parts."""

    n_latents: tuple[int, ...]
    batch: int
    width: int
    k: int
    checked: tuple[int, int, int]  # L, D and B of the steps that are compared with the CPU's
    index_tokens: int
    index_latents: int
    decoded: int


FULL = Sizes((12_288, 24_576, 131_072), 4096, 768, 32, (2048, 256, 512), 200_000, 24_576, 64)
SMALL = Sizes((16,), 16, 8, 2, (16, 8, 16), 1000, 64, 3)


def steps(sizes: Sizes, dry: bool) -> str:
    """Compare three steps of each architecture with the CPU's, in float32 products."""
    L, D, B = sizes.checked
    rows = []
    for rule in RULES[:1] if dry else RULES:
        spec = TrainSpec(**rule, n_latents=L, k=sizes.k, batch_tokens=B, tokens=1000 * B, dead_after_tokens=B)
        made = [SAETrainer(spec, DataStatistics(torch.linspace(-1, 1, D), variance=float(D), input_scale=1.0),
                           torch.device(device), torch.float32) for device in ("cpu", "cuda")]
        generator = torch.Generator().manual_seed(0)
        losses: list[tuple[float, float]] = []
        for _ in range(1 if dry else 3):
            y_BD = torch.randn(B, D, generator=generator)
            here, there = (float(trainer.step(y_BD.to(device), 1e-3).loss) for trainer, device in zip(
                made, ("cpu", "cuda"), strict=True))
            losses.append((here, there))
        apart = max(float((mine.cpu() - other).abs().max()) for mine, other in zip(
            made[1].tensors().values(), made[0].tensors().values(), strict=True))
        far = max(abs(there / here - 1) for here, there in losses)
        rows.append([" ".join(map(str, rule.values())), f"{far:.1e}", f"{apart:.1e}", "yes" if far < 1e-3 else "NO"])
    return table(["rule", "largest relative difference of the loss", "of a weight", "same"], rows)


def waits(sizes: Sizes, dry: bool) -> str:
    """Count the synchronisations and the launches of a BatchTopK step without dead latents."""
    trainer, y_BD = _trainer(sizes, sizes.n_latents[0])
    for _ in range(1 if dry else 5):
        trainer.step(y_BD, 1e-4)
    if dry:
        return "not counted in a dry run; the tests count them on the pretended device"
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        trainer.step(y_BD, 1e-4)
        torch.cuda.set_sync_debug_mode("default")
    n_waits = sum("synchroniz" in str(one.message) for one in seen)
    with torch.profiler.profile() as profile:
        trainer.step(y_BD, 1e-4)
        torch.cuda.synchronize()
    launches = sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)
    return table(["BatchTopK step", "count"], [["synchronisations (aim 0)", n_waits], ["launches", launches]])


def kernel_times(sizes: Sizes, dry: bool) -> str:
    """Time every kernel; a dry run only calls each of them."""
    if dry:
        names = []
        for case in kernels.cases(sizes.n_latents[0], "cuda", sizes.batch, sizes.width, sizes.k):
            case.ours()
            names.append(case.name)
        return f"called: {', '.join(names)}"
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    copy_rate, matrix_rate = kernels.rates(flush)
    parts = [f"copies {copy_rate / 1e12:.2f} TB/s, bf16 products {matrix_rate / 1e12:.0f} TFLOP/s"]
    for n_latents in sizes.n_latents:
        rows = []
        for case in kernels.cases(n_latents, "cuda"):
            ours = kernels.seconds(case.ours, flush)
            theirs = kernels.seconds(case.torchs, flush) if case.torchs else None
            rows.append([case.name, f"{1e3 * ours:.3f}", "" if theirs is None else f"{1e3 * theirs:.3f}",
                         f"{case.n_bytes / ours / copy_rate:.0%}"])
        parts.append(f"L = {n_latents:,}\n\n" + table(["kernel", "ms", "torch, ms", "of copy rate"], rows))
    return "\n\n".join(parts)


def training(sizes: Sizes, dry: bool) -> str:
    """Time training steps next to SAELens' and the bare product."""
    if dry:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "x.npy"
            np.save(data, np.random.default_rng(0).normal(size=(2 * sizes.batch, sizes.width)).astype(np.float32))
            stepper = Stepper()
            stepper.make(TrainSpec(architecture="batch_topk", n_latents=sizes.n_latents[0], k=sizes.k,
                                   batch_tokens=sizes.batch, tokens=1000 * sizes.batch, lr=1e-3), str(data),
                         torch.device("cuda"))
            return f"steps: {len(stepper.steps(1)['seconds'])}"
    with_peer = (PEERS / "saelens" / ".installed").exists()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "x.npy"
        np.save(data, train_step.activations(4 * train_step.BATCH))
        for n_latents in sizes.n_latents:
            for found in train_step.against(str(data), "cuda", 3, with_peer, n_latents):
                predicted = PREDICTED_MS.get(n_latents) if found["what"] == "saescope" else None
                rows.append([f"{n_latents:,}", found["what"], f"{1e3 * found['seconds']:.2f}", predicted or "",
                             f"{train_step.BATCH / found['seconds']:,.0f}",
                             f"{found['peak_mb']:,.0f}" if "peak_mb" in found else ""])
    note = "" if with_peer else "\n\nSAELens is not installed here."
    return table(["L", "what", "ms (median)", "predicted ms (H200)", "tokens/s", "peak MB"], rows) + note


def index(sizes: Sizes, dry: bool) -> str:
    """Index the demo model's text with a random SAE."""
    from sae.data.corpus import prepare
    from sae.index.build import build
    from sae.specs.registry import IndexSettings
    from sae.workspace.paths import Workspace

    lm, sae = _demo(sizes.index_latents)
    with tempfile.TemporaryDirectory() as folder:
        text = str(Path(__file__)) if dry else "stdlib"
        corpus = prepare(text, "text", "train", lm, 128, Workspace(Path(folder)))
        started = time.perf_counter()
        build(lm, sae, corpus, IndexSettings(index_tokens=sizes.index_tokens), Path(folder) / "b.duckdb",
              provenance={"run": "", "command": ""})
        seconds = time.perf_counter() - started
    return table(["latents", "tokens", "seconds", "tokens/s"],
                 [[f"{sizes.index_latents:,}", f"{sizes.index_tokens:,}", f"{seconds:.1f}",
                   f"{sizes.index_tokens / seconds:,.0f}"]])


def decode(sizes: Sizes, dry: bool) -> str:
    """Generate steered texts, one and eight at once."""
    from sae.lm.row_model import RowModel
    from sae.steering.generation import Run, TextGenerator
    from sae.steering.request import Intervention, Sampling, SteerRequest

    lm, sae = _demo(sizes.index_latents)
    model = RowModel(lm)
    request = SteerRequest(model="demo", prompt="def main(", columns=("steered",), interventions=(
        Intervention(sae="demo/random", layer=2, latent=3, strength=2.0, max_act=8.0),),
        sampling=Sampling(length=sizes.decoded))
    prompt = [lm.bos_id, *lm.encode("def main(")]
    rows = []
    for users in (1,) if dry else (1, 8):
        generator = TextGenerator(model)
        runs = [Run.of(request, prompt, {"demo/random": sae}, []) for _ in range(users)]
        for run in runs:
            for _ in generator.join(run):
                pass
        started = time.perf_counter()
        while generator.n_texts:
            generator.step()
        seconds = time.perf_counter() - started
        tokens = sum(len(column.output) for run in runs for column in run.columns)
        rows.append([users, tokens, f"{tokens / seconds:,.0f}"])
    return table(["texts at once", "tokens", "tokens/s"], rows)


def _demo(n_latents: int) -> tuple[Any, Any]:
    """Return the demo model and a random SAE on the device."""
    from sae.autoencoder.artefact import Autoencoder
    from sae.lm.bridge import LanguageModel

    lm = LanguageModel.load("demo", "cuda")
    W_LD = torch.nn.functional.normalize(
        torch.randn(n_latents, lm.info.d_model, generator=torch.Generator().manual_seed(0)), dim=1).to("cuda")
    zero_L, zero_D = torch.zeros(n_latents, device="cuda"), torch.zeros(lm.info.d_model, device="cuda")
    sae = Autoencoder({"W_enc": W_LD, "b_enc": zero_L, "W_dec": W_LD, "b_dec": zero_D,
                       "threshold": torch.tensor([4.0])}, {
        "id": "demo/random", "model": {"name": "demo", "id": "demo"}, "architecture": "batch_topk", "k": 16,
        "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "n_latents": n_latents, "normalize": "none",
        "d_model": lm.info.d_model, "context_length": 128, "bos": {"prepended": True, "trained_on": True},
        "weight_processing": "raw", "metrics": {}, "training": {}, "threshold": None})
    return lm, sae


def _trainer(sizes: Sizes, n_latents: int) -> tuple[SAETrainer, torch.Tensor]:
    spec = TrainSpec(n_latents=n_latents, k=sizes.k, batch_tokens=sizes.batch, tokens=10**9)
    start = DataStatistics(torch.zeros(sizes.width), variance=float(sizes.width), input_scale=1.0)
    return SAETrainer(spec, start, torch.device("cuda")), torch.randn(sizes.batch, sizes.width).to("cuda")


PARTS: dict[str, Callable[[Sizes, bool], str]] = {
    "steps": steps, "waits": waits, "kernels": kernel_times, "training": training, "index": index, "decode": decode}


def results(sizes: Sizes, dry: bool, only: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield each part's name, text, and whether it went well."""
    started = time.perf_counter()
    for name in only:
        if time.perf_counter() - started > LIMIT_S * 0.8:
            yield name, "left out: the time was over", False
            continue
        begun = time.perf_counter()
        try:
            with _device(name, dry):
                text, good = PARTS[name](sizes, dry), True
        except Exception as error:
            traceback.print_exc()
            text, good = f"failed: {type(error).__name__}: {error}", False
        yield name, f"{text}\n\n({time.perf_counter() - begun:.0f} s)", good


def _device(name: str, dry: bool) -> contextlib.AbstractContextManager[object]:
    """Return the pretended device of a dry run; the long parts run without the interpreted kernels, to end soon."""
    if not dry:
        return contextlib.nullcontext()
    from tests.pretended import pretend

    return pretend("cuda", triton=name not in ("index", "decode"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="small sizes on a pretended device")
    parser.add_argument("--out", type=Path, help="the result file (default: in benchmarks/results)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("not measured: no CUDA device")
        return 1
    found = list(results(SMALL if options.dry_run else FULL, options.dry_run, options.only))
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text, _ in found)
    print(body)
    if options.out or options.dry_run:
        dry = "DRY RUN on a pretended device: no figure here means anything.  " * options.dry_run
        text = (f"# The GPU path\n\n{dry}{machine()['gpu']}; torch {torch.__version__}; commit {commit()}, "
                f"{datetime.date.today()}\n\n{body}\n")
        if options.out:
            options.out.write_text(text, encoding="utf-8")
    else:
        print(write("gpu", "The GPU path", __doc__ or "", body))
    return 0 if all(good for _, _, good in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
