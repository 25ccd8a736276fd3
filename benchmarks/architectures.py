"""The findings of Gao et al. 2024 about activation functions, measured here: shrinkage and progressive recovery.

    python -m benchmarks.architectures                 about five minutes on two cores
    python -m benchmarks.architectures --tokens 2000000 --latents 4096    a longer run

Every architecture is trained on the same stored activations (demo model, standard library, the residual
stream after block 2), with k = 32 if it has a k.  All figures are from held-out text, over all tokens but BOS.

* **Shrinkage** (figure 9): each token's active latents are fixed and their values refined to the non-negative
  least-squares optimum.  `bias` is Σ(f* − f)/Σf, the shrinkage by an L1 penalty.
* **Progressive recovery** (figure 10): FVU when the activation function is replaced by TopK(k'), and
  by one threshold with a mean L0 of k'.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._report import bar, emit, table
from sae.autoencoder.architectures import REGISTRY
from sae.data.activations import ActivationStream
from sae.data.corpus import prepare
from sae.evaluation.metrics import calibrate_threshold, held_out_contexts, reconstruction_metrics, residuals
from sae.evaluation.recovery import progressive_recovery, refine
from sae.lm.bridge import LanguageModel
from sae.lm.sites import resid_post
from sae.specs.registry import TrainSpec
from sae.training.loop import StoredActivations, artefact, train
from sae.workspace.paths import Workspace

LAYER, BATCH = 2, 1024
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SAES: dict[str, dict[str, Any]] = {
    "relu": {}, "gated": {}, "jumprelu": {}, "topk": {}, "multi_topk": {"architecture": "topk", "multi_topk": True},
    "batch_topk": {}, "matryoshka": {}}


class Bench:
    """The stored activations and the measurement of one architecture at a time."""

    def __init__(self, home: Path, tokens: int, eval_tokens: int) -> None:
        lm = LanguageModel.load("demo")
        corpus = prepare("stdlib", "text", "train", lm, 128, Workspace(home))
        hook = resid_post(LAYER)
        self.calibration_ND, self.evaluation_ND = (
            torch.cat(list(residuals(lm, corpus, contexts, hook)))
            for contexts in held_out_contexts(corpus, eval_tokens))
        stored = ActivationStream(lm, corpus, hook, batch_tokens=BATCH, chunk_tokens=min(tokens, 600_000))
        self.stored_ND = stored.sample(min(tokens, 600_000)).bfloat16()

    def measure(self, name: str, options: argparse.Namespace) -> dict[str, Any]:
        """Train one SAE, calibrate its θ if it has one, and measure shrinkage and progressive recovery."""
        values = {"architecture": name, "n_latents": options.latents, "k": options.k, "tokens": options.tokens,
                  "batch_tokens": BATCH, "seed": options.seed, **SAES[name]}
        spec = TrainSpec(**values)
        started = time.perf_counter()
        trained = train(spec, StoredActivations(self.stored_ND, BATCH, seed=spec.seed), torch.device("cpu"))
        seconds = time.perf_counter() - started
        sae = artefact(trained, {
            "normalize": spec.normalize, "architecture": spec.architecture, "site": {"layer": LAYER, "hook": spec.hook},
            "k": spec.k if REGISTRY[spec.architecture].has_k else None})
        if sae.sparsity.has_threshold:
            sae.sparsity.threshold = calibrate_threshold(sae, [self.calibration_ND], sae.k)
        refined = refine(sae, self.evaluation_ND[: options.refine_tokens], iterations=200)
        ks = [k for k in (4, 8, 16, 32, 64, 128, 256) if k <= options.latents]
        return {
            "name": name, "seconds": seconds, **reconstruction_metrics(sae, iter([self.evaluation_ND])),
            "bias": refined.bias, "size": refined.size, "fvu_refined": refined.fvu_after,
            "fvu_unrefined": refined.fvu_before,
            "quantiles": dict(zip(map(str, QUANTILES), refined.quantiles(QUANTILES), strict=True)),
            "topk": progressive_recovery(sae, self.evaluation_ND, ks),
            "threshold": progressive_recovery(sae, self.evaluation_ND, ks, "threshold")}


def shrinkage_table(rows: list[dict[str, Any]]) -> str:
    """Return a table of the effect of refinement on each SAE."""
    header = ["SAE", "L0", "FVU", "dead", "bias", "mean move", *(f"{q:.0%}" for q in QUANTILES), "FVU, refined"]
    return table(header, [
        [row["name"], f"{row['l0']:.1f}", f"{row['fvu']:.4f}", row["dead"], f"{row['bias']:+.1%}", f"{row['size']:.1%}",
         *(f"{value:+.2f}" for value in row["quantiles"].values()),
         f"{row['fvu_unrefined']:.4f} → {row['fvu_refined']:.4f}"] for row in rows])


def recovery_table(rows: list[dict[str, Any]], rule: str) -> str:
    """Return a table of FVU at every k'."""
    ks = list(rows[0][rule])
    return table(["SAE", *(f"k' = {k}" for k in ks)], [
        [row["name"], *(f"{row[rule][k]:.4f}" for k in ks)] for row in rows])


def bars(rows: list[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    """Return the paper's findings that can be expressed as one figure each."""
    by_name = {row["name"]: row for row in rows}
    out = []
    if {"relu", "topk"} <= set(by_name):
        out.append(bar("shrinkage of ReLU-L1 (bias)", by_name["relu"]["bias"], "≥ 5%", by_name["relu"]["bias"] >= 0.05))
        out.append(bar("shrinkage of TopK (bias)", by_name["topk"]["bias"], "|bias| ≤ 2%",
                       abs(by_name["topk"]["bias"]) <= 0.02))
    if {"multi_topk", "topk"} <= set(by_name) and 8 * k in by_name["topk"]["topk"]:
        ratio = {name: by_name[name]["topk"][8 * k] / by_name[name]["topk"][k] for name in ("topk", "multi_topk")}
        out.append(bar("TopK: FVU at 8k over FVU at k", ratio["topk"], "–", True))
        out.append(bar("Multi-TopK: FVU at 8k over FVU at k", ratio["multi_topk"], "less than TopK's, and ≤ 1",
                       ratio["multi_topk"] < min(1.0, ratio["topk"])))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=600_000, help="activations to train on")
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-tokens", type=int, default=20_000)
    parser.add_argument("--refine-tokens", type=int, default=4_000)
    parser.add_argument("--only", nargs="+", choices=list(SAES), default=list(SAES))
    parser.add_argument("--home", type=Path, default=Path("data"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bench = Bench(options.home, options.tokens, options.eval_tokens)
    rows = []
    for name in options.only:
        rows.append(row := bench.measure(name, options))
        if not options.json:
            print(f"{name}: FVU {row['fvu']:.4f}, L0 {row['l0']:.1f} ({row['seconds']:.0f} s)", flush=True)
    if not options.json:
        print("\nShrinkage: refined minus own activations; quantiles in units of the mean activation\n\n"
              + shrinkage_table(rows))
        for rule, what in (("topk", "the k' strongest"), ("threshold", "one θ with a mean L0 of k'")):
            print(f"\nProgressive recovery: FVU with {what}\n\n" + recovery_table(rows, rule))
    emit("architectures", rows, bars(rows, options.k), options.json)


if __name__ == "__main__":
    main()
