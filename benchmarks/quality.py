"""The quality of SAEs: saescope against SAELens, and TopK against BatchTopK by normalisation over several seeds.

    python -m benchmarks.quality                 both parts, 10 and 40 minutes on two cores
    python -m benchmarks.quality --part peer     held-out FVU of five architectures against SAELens (`_quality_peer`)
    python -m benchmarks.quality --part grid --seeds 1 --k 32    a short grid: FVU, ΔCE and L0

Every SAE of the grid is trained on the same stored activations (demo model, standard library,
the residual stream after block 2, BOS included as in the paper), each seed with its own
initialisation and order of batches.  Finished cells are stored in `--cache` by commit, so a
stopped run resumes.  θ is calibrated on one half of the held-out text; all figures are from the
other half, over all tokens but BOS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import _quality_peer
from benchmarks._report import bar, commit, emit, table
from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import ActivationStream
from sae.data.corpus import Corpus, prepare
from sae.evaluation.metrics import (
    calibrate_threshold,
    cross_entropy_metrics,
    held_out_contexts,
    mean_l0,
    reconstruction_metrics,
    residuals,
)
from sae.lm.bridge import LanguageModel
from sae.lm.sites import resid_post
from sae.specs.registry import TrainSpec
from sae.training.loop import StoredActivations, Trained, artefact, train
from sae.workspace.paths import Workspace

LAYER = 2
NORMALIZATIONS = ("layer_norm", "dataset")
ARCHITECTURES = ("topk", "batch_topk")


class Bench:
    """The language model, the stored activations, and the measurement of one cell of the grid at a time."""

    def __init__(self, home: Path, train_tokens: int, eval_tokens: int, ce_tokens: int) -> None:
        self.lm = LanguageModel.load("demo")
        self.corpus: Corpus = prepare("stdlib", "text", "train", self.lm, 128, Workspace(home))
        calibration, evaluation = held_out_contexts(self.corpus, eval_tokens)
        self.calibration = list(residuals(self.lm, self.corpus, calibration, resid_post(LAYER)))
        self.evaluation = list(residuals(self.lm, self.corpus, evaluation, resid_post(LAYER)))
        self.ce_contexts = evaluation[: ce_tokens // 127]
        stream = ActivationStream(self.lm, self.corpus, resid_post(LAYER), batch_tokens=2048, chunk_tokens=train_tokens)
        self.stored_ND = stream.sample(train_tokens).bfloat16()
        self.mean_D = torch.cat(self.calibration).mean(dim=0)
        self.bos_1D = self.lm.activations(torch.tensor([[self.lm.bos_id]]), resid_post(LAYER))[0]

    def cell(self, spec: TrainSpec) -> dict[str, Any]:
        """Train one SAE and measure it."""
        source = StoredActivations(self.stored_ND, spec.batch_tokens, seed=spec.seed)
        started = time.perf_counter()
        trained = train(spec, source, torch.device("cpu"))
        seconds = time.perf_counter() - started
        sae = artefact(trained, {"normalize": spec.normalize, "architecture": spec.architecture, "k": spec.k,
                                 "site": {"layer": LAYER, "hook": resid_post(LAYER)}})
        row = {**self._thresholds(sae, trained), **reconstruction_metrics(sae, iter(self.evaluation)),
               **cross_entropy_metrics(self.lm, sae, self.corpus, self.ce_contexts, self.mean_D)}
        row["bos_l0"] = int(sae.codes(self.bos_1D).l0_B()[0])
        row["l0_by_norm"] = self._by_norm(sae)
        return {**row, "seconds": seconds}

    def _thresholds(self, sae: Autoencoder, trained: Trained) -> dict[str, Any]:
        theta = sae.sparsity.threshold
        if theta is None:
            return {}
        l0 = mean_l0(sae, self.calibration, theta)
        sae.sparsity.threshold = calibrate_threshold(sae, self.calibration, sae.k)
        return {"theta_trained": theta, "l0_at_theta_trained": l0, "theta": sae.sparsity.threshold}

    def _by_norm(self, sae: Autoencoder) -> list[dict[str, float]]:
        """Return L0, FVU and share of the variance by quartile of the token's distance from the mean."""
        x_ND = torch.cat(self.evaluation)
        codes = sae.codes(x_ND)
        error_N = (x_ND - sae.decode(codes, x_ND)).square().sum(dim=1)
        spread_N = (x_ND - x_ND.mean(dim=0)).square().sum(dim=1)
        quarters = spread_N.argsort().chunk(4)
        l0_N = codes.l0_B().float()
        return [{"l0": float(l0_N[q].mean()), "fvu": float(error_N[q].sum() / spread_N[q].sum()),
                 "share_of_variance": float(spread_N[q].sum() / spread_N.sum())} for q in quarters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["peer", "grid", "both"], default="both")
    parser.add_argument("--peer-steps", type=int, default=300, help="batches of 2,048 on which both train")
    parser.add_argument("--peer-lr", type=float, nargs="+", default=_quality_peer.RATES,
                        help="peak learning rates of both")
    parser.add_argument("--tokens", type=int, default=1_433_600, help="activations to train on (700 batches of 2,048)")
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=0.0, help="peak learning rate; 0: saescope's default")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--normalize", nargs="+", default=list(NORMALIZATIONS))
    parser.add_argument("--ce-tokens", type=int, default=16_384)
    parser.add_argument("--home", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, default=Path("data/bench-quality.jsonl"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    peers = against_peer(options) if options.part != "grid" else []
    summary = summarise(run(options)) if options.part != "peer" else []
    if not options.json:
        if peers:
            print("saescope and SAELens after the same tokens:\n\n" + _quality_peer.as_table(peers) + "\n")
        if summary:
            print(as_table(summary))
            print("\nBy quarter of the tokens, nearest to the mean activation first:\n" + quarters_table(summary))
    emit("quality", {"peer": peers, "grid": summary}, _quality_peer.bars(peers) + bars(summary), options.json)


def against_peer(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure five architectures of saescope and SAELens."""
    bench = Bench(options.home, options.peer_steps * _quality_peer.BATCH, 100_000, 0)
    comparison = _quality_peer.Comparison(
        bench.stored_ND, bench.calibration, bench.evaluation, LAYER, options.peer_steps)
    return list(comparison.rows(options.peer_lr, lambda text: None if options.json else print(text, flush=True)))


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return every cell of the grid, from the cache or measured now."""
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in options.cache.read_text().splitlines()] if options.cache.exists() else []
    done = {json.dumps([row["cell"], row["commit"]], sort_keys=True): row for row in known}
    bench: Bench | None = None
    rows = []
    for seed, normalize, k, architecture in itertools.product(
            range(options.seeds), options.normalize, options.k, ARCHITECTURES):
        cell: dict[str, Any] = {
            "architecture": architecture, "k": k, "normalize": normalize, "seed": seed, "lr": options.lr,
            "tokens": options.tokens, "n_latents": options.latents}
        key = json.dumps([cell, commit()], sort_keys=True)
        if key not in done:
            bench = bench or Bench(options.home, options.tokens, 100_000, options.ce_tokens)
            done[key] = {"cell": cell, "commit": commit(), **bench.cell(TrainSpec(**cell))}
            with open(options.cache, "a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
            if not options.json:
                row = done[key]
                print(f"{normalize:10} {architecture:10} k={k} seed={seed}: FVU {row['fvu']:.4f} L0 {row['l0']:.2f} "
                      f"ΔCE {row['delta_ce']:.3f} ({row['seconds']:.0f} s)", flush=True)
        rows.append(done[key])
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over seeds of each (normalisation, k, architecture)."""
    out = []
    key = lambda row: (row["cell"]["normalize"], row["cell"]["k"], row["cell"]["architecture"])  # noqa: E731
    for (normalize, k, architecture), group in itertools.groupby(sorted(rows, key=key), key=key):
        cells = list(group)
        line: dict[str, Any] = {"normalize": normalize, "k": k, "architecture": architecture, "seeds": len(cells)}
        for name in ("fvu", "delta_ce", "l0", "l0_std", "bos_l0", "dead", "l0_at_theta_trained"):
            values = [cell[name] for cell in cells if name in cell]
            if values:
                line[name] = statistics.mean(values)
                line[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        line["by_quarter"] = [
            {name: statistics.mean(cell["l0_by_norm"][quarter][name] for cell in cells) for name in ("l0", "fvu")}
            for quarter in range(4)]
        out.append(line)
    return out


def quarters_table(summary: list[dict[str, Any]]) -> str:
    """Return a table of L0 and FVU by quarter of the tokens, nearest to the mean activation first."""
    return table(["inputs", "k", "SAE", "L0 by quarter", "FVU by quarter"], [
        [line["normalize"], line["k"], line["architecture"],
         *(" / ".join(f"{part[name]:.{digits}f}" for part in line["by_quarter"])
           for name, digits in (("l0", 1), ("fvu", 3)))] for line in summary])


def as_table(summary: list[dict[str, Any]]) -> str:
    """Return a table of the figures with their standard deviation over seeds."""
    def cell(line: dict[str, Any], name: str, digits: int) -> str:
        if name not in line:
            return "–"
        spread = line.get(f"{name}_sd")
        return f"{line[name]:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")

    header = ["inputs", "k", "SAE", "FVU", "ΔCE (nats)", "L0", "L0 at trained θ", "L0 of BOS", "dead"]
    return table(header, [
        [line["normalize"], line["k"], line["architecture"], cell(line, "fvu", 4), cell(line, "delta_ce", 3),
         cell(line, "l0", 2), cell(line, "l0_at_theta_trained", 2), cell(line, "bos_l0", 0), cell(line, "dead", 0)]
        for line in summary])


def bars(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals: the L0 at the calibrated θ is within 2% of k on held-out tokens."""
    out = []
    for line in summary:
        if line["architecture"] == "batch_topk":
            off = abs(line["l0"] / line["k"] - 1)
            out.append(bar(f"L0 against k = {line['k']}, {line['normalize']}", off, "≤ 2%", off <= 0.02))
    return out


if __name__ == "__main__":
    main()
