"""`saescope train` from start to saved SAE, and SAELens' own runner on the same model and text.

    python -m benchmarks.pipeline            about 10 minutes on two cores
    python -m benchmarks.pipeline --no-peer  without SAELens
    python -m benchmarks.pipeline --write    also write the tables to benchmarks/results

The language model has GPT-2 small's shape (D = 768, 12 layers, V = 50,257) and random weights; the site is the
residual stream before layer 8.  The SAE is BatchTopK with L = 12,288 and k = 32, batches of 4,096, in contexts of 128
tokens.  Ours is the whole command in a fresh process with everything but the index, which SAELens does not have:
imports, the check of the model, tokenising, the language model, training, calibration and evaluation (FVU, ΔCE).  A
second command then builds the index.  SAELens 6.54.12 runs in its own environment, with autocast of model and SAE,
on tokens that are ready, and does not evaluate: its time counts from its import to its saved SAE.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers import PEERS, environment
from benchmarks._report import bar, bars_table, emit, table, write

TOKENS, CONTEXT, LAYER, N_LATENTS, K, BATCH = 131_072, 128, 8, 12_288, 32, 4096
INDEX_TOKENS = 65_536
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-peer", action="store_true", help="leave SAELens out")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.no_peer:
        environment("saelens")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model")
        results: Figures = {"ours": ours(folder)}
        if not options.no_peer:
            results["peer"] = peer(folder)
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


def ours(folder: Path) -> Figures:
    """Return the seconds of each phase of our training, and of the index."""
    home = folder / "home"
    training = _watched(home, [
        "train", "--model", str(folder / "model"), "--text", "stdlib", "--layer", str(LAYER), "--site", "resid_pre",
        "--n-latents", str(N_LATENTS), "--k", str(K), "--tokens", str(TOKENS), "--batch-tokens", str(BATCH),
        "--context-length", str(CONTEXT), "--name", "bench", "--no-index"])
    index = _watched(home, ["index", "--sae", f"{_model_id(home)}/bench", "--index-tokens", str(INDEX_TOKENS)])
    progress = next((home / "runs").glob("train-*/progress.jsonl")).read_text().splitlines()
    rows = [json.loads(line) for line in progress]
    return {"training": training, "index": index, "harvest_share": [row["lm_share"] for row in rows if "lm_share" in row]}


def _model_id(home: Path) -> str:
    config = next(home.glob("saes/*/bench/sae.json"))
    return config.parent.parent.name


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
