"""`saescope train` from start to saved SAE, and SAELens' own runner on the same model and text.

    python -m benchmarks.pipeline                  about 40 minutes on two cores
    python -m benchmarks.pipeline --tokens 131072  a quarter of the training
    python -m benchmarks.pipeline --no-peer        without SAELens
    python -m benchmarks.pipeline --write          also write the tables to benchmarks/results

The language model has GPT-2 small's shape (D = 768, 12 layers, V = 50,257) and random weights; the site is the
residual stream before layer 8. The SAE is BatchTopK with L = 12,288 and k = 32, trained on 524,288 tokens in batches
of 4,096, in contexts of 128 tokens. The tokens are ready for both. Ours is the whole command in a fresh process with
everything but the index, which SAELens does not have: imports, the check of the model, the language model, training,
calibration and evaluation on held-out text (8,192 tokens for θ, as many for FVU, and 2,048 for ΔCE). Both count a
latent as dead after as many tokens, which a run of this length does not reach. A second command then builds the index.
SAELens 6.54.12 runs in its own environment and does not evaluate: its time counts from its import to its saved SAE. It
runs as its own defaults have it, in float32, and with its two settings for mixed precision, which let it read the
language model in bfloat16 as ours does. Then both spend most of their time in the same products of the language model,
which bounds the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers import PEERS, environment
from benchmarks._report import bar, bars_table, emit, table, write
from sae.data.corpus import Corpus, prepare
from sae.lm.bridge import LanguageModel
from sae.workspace.paths import Workspace

CONTEXT, LAYER, N_LATENTS, K, BATCH = 128, 8, 12_288, 32, 4096
BUFFER, INDEX_TOKENS, EVAL_TOKENS, CE_TOKENS = 65_536, 65_536, 8192, 2048
DEAD_TOKENS = 1000 * BATCH  # SAELens' window is 1,000 steps
DEFAULTS = "its defaults"
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=524_288, help="read in training")
    parser.add_argument("--no-peer", action="store_true", help="leave SAELens out")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.no_peer:
        environment("saelens")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model")
        results: Figures = {"ours": ours(folder, options.tokens)}
        if not options.no_peer:
            results["peers"] = peers(folder, options.tokens)
    tables, bars = report(results)
    if options.write:
        write("pipeline", "Training from start to saved SAE", str(__doc__).partition("\n\n    python")[0], tables)
    if not options.json:
        print(tables)
    emit("pipeline", results, bars, options.json)


def make_model(folder: Path) -> None:
    """Write a random model of GPT-2 small's shape with the embedded model's tokenizer."""
    import torch
    import transformers

    from sae.lm.model_info import DEMO_PATH

    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_PATH / name, folder)


def ours(folder: Path, tokens: int) -> Figures:
    """Return the seconds of each phase of our training and of the index, and the language model's share of training."""
    home = folder / "home"
    lm = LanguageModel.load(str(folder / "model"))
    prepare("stdlib", "text", "train", lm, CONTEXT, Workspace(home))
    training = _watched(home, [
        "train", "--model", str(folder / "model"), "--text", "stdlib", "--layer", str(LAYER),
        "--site", "hook_resid_pre",
        "--n-latents", str(N_LATENTS), "--k", str(K), "--tokens", str(tokens), "--batch-tokens", str(BATCH),
        "--buffer-tokens", str(BUFFER), "--context-length", str(CONTEXT), "--dead-after-tokens", str(DEAD_TOKENS),
        "--eval-tokens", str(EVAL_TOKENS), "--ce-tokens", str(CE_TOKENS), "--name", "bench", "--no-index"])
    sae = next(home.glob("saes/*/bench/sae.json")).parent
    index = _watched(home, ["index", "--sae", f"{sae.parent.name}/bench", "--index-tokens", str(INDEX_TOKENS)])
    lines = next((home / "runs").glob("train-*/progress.jsonl")).read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row.get("lm_tokens_per_s")]
    speeds = [row["lm_tokens_per_s"] for row in rows]
    return {"training": training, "index": index, "lm_tokens_per_s": statistics.median(speeds),
            "sae_tokens_per_s": statistics.median(row["sae_tokens_per_s"] for row in rows)}


def peers(folder: Path, tokens: int) -> Figures:
    """Return the seconds of SAELens' runner by the class and the precision of its language model."""
    corpus = Corpus.open(next((folder / "home" / "corpora").rglob("tokens.bin")).parent)
    np.save(folder / "tokens.npy", corpus.tokens[: 2 * tokens // CONTEXT].astype(np.int64))
    hooked, plain = ("HookedTransformer", f"blocks.{LAYER}.hook_resid_pre"), (
        "AutoModelForCausalLM", f"transformer.h.{LAYER - 1}")
    found = {}
    # The class that it takes by itself, and the faster one.
    for (kind, hook), name in ((hooked, DEFAULTS), (plain, "Hugging Face's class, mixed precision")):
        asked = {"tokens": str(folder / "tokens.npy"), "model": str(folder / "model"), "class": kind, "hook": hook,
                 "n_latents": N_LATENTS, "k": K, "context": CONTEXT, "n_tokens": tokens, "batch": BATCH,
                 "buffer": BUFFER, "mixed": name != DEFAULTS, "out": str(folder / f"peer-{len(found)}")}
        done = subprocess.run([environment("saelens"), PEERS / "saelens_pipeline.py", json.dumps(asked)],
                              env={**os.environ, "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"SAELens failed: {done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(results: Figures) -> tuple[str, list[dict[str, Any]]]:
    """Return the tables and the bars."""
    own = results["ours"]
    phases = {**own["training"]["phases"], "the index, a command of its own": own["index"]["seconds"]}
    total = own["training"]["seconds"]
    rows = [[name, f"{seconds:.1f}", f"{seconds / total:.0%}"] for name, seconds in phases.items()]
    tables = [table(["our phase", "seconds", "of the training command"], rows),
              f"In training the language model reads {own['lm_tokens_per_s']:,.0f} tokens/s, and the SAE's steps take "
              f"{own['sae_tokens_per_s']:,.0f} tokens/s."]
    bars = []
    if "peers" in results:
        seconds = {"saescope": total} | {
            f"SAELens, {name}": found["seconds"] for name, found in results["peers"].items()}
        tables.append(table(["from start to saved SAE", "seconds", "over ours"], [
            [name, f"{one:.1f}", f"{one / total:.2f}"] for name, one in seconds.items()]))
        bars.append(bar(f"SAELens' runner, {DEFAULTS}, over ours", seconds[f"SAELens, {DEFAULTS}"] / total, "≥ 4",
                        seconds[f"SAELens, {DEFAULTS}"] >= 4 * total))
        tables.append(bars_table(bars))
    return "\n\n".join(tables), bars


def _watched(home: Path, words: list[str]) -> Figures:
    """Run a command and return its seconds by phase of the run, read off its status file."""
    environment = {**os.environ, "SAESCOPE_HOME": str(home)}
    before = set(home.glob("runs/*"))
    started = last = time.perf_counter()
    phases: dict[str, float] = {}
    phase = "start"
    process = subprocess.Popen([sys.executable, "-m", "sae", *words], env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        now = time.perf_counter()
        phases[phase] = phases.get(phase, 0.0) + now - last
        last = now
        for run in set(home.glob("runs/*")) - before:
            try:
                phase = json.loads((run / "status.json").read_text()).get("phase") or phase
            except (OSError, ValueError):
                continue
        time.sleep(0.05)
    if process.returncode:
        assert process.stderr
        raise RuntimeError(f"{words[0]} failed: {process.stderr.read()[-2000:]}")
    return {"seconds": time.perf_counter() - started, "phases": phases}


if __name__ == "__main__":
    main()
