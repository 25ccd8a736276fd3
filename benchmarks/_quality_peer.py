"""Held-out FVU of saescope and SAELens after the same tokens with the same settings, for `benchmarks.quality`.

Both train on the same stored activations (scaled once so that E‖y‖² = D; neither normalises further), in
batches of 2,048, with Adam (0.9, 0.99).  They share the peak learning rate (several values in turn), warm-up, linear
decay, the clipping norm (1, of the summed squared error's gradient), b_dec and unit decoder rows.
If there is a penalty, its coefficient, warm-up, first θ, bandwidth and gate bias are the same in the units of
each.  The trainers differ in the scale of the loss, the initial weights, the treatment of decoder norms
and dead latents, and the precision.

One function measures both artefacts (`sae.evaluation.metrics.reconstruction_metrics`).  SAELens' artefact is read
like any SAELens folder, with its own inference rule.  FVUs are compared at the same L0:

    topk                      k determines L0
    batch_topk, matryoshka    both use one θ for all latents, chosen so that the mean L0 of other held-out tokens is k
    jumprelu, gated           saescope is trained with the same coefficient and then with others, until its L0s are
                              on both sides of SAELens' and near it; its FVU is interpolated there (log FVU,
                              linear in log L0), and an L0 that was not reached counts as a failure
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._report import bar, table
from benchmarks._workers import saelens
from sae.autoencoder.architectures.data_statistics import DataStatistics
from sae.autoencoder.artefact import Autoencoder
from sae.autoencoder.normalization import Normalizer
from sae.evaluation.metrics import calibrate_threshold, mean_l0, reconstruction_metrics
from sae.formats.readers.registry import load
from sae.lm.sites import resid_post
from sae.specs.contradictions import prefix_sizes
from sae.specs.registry import TrainSpec
from sae.training.loop import StoredActivations, artefact, train

ARCHITECTURES = ("topk", "batch_topk", "jumprelu", "gated", "matryoshka")
ONE_THETA = ("batch_topk", "matryoshka")
LATENTS, K, BATCH, WARMUP, DECAY = 2048, 32, 2048, 50, 0.3
RATES = (4e-3, 8e-3)
CLIP_NORM = 1.0  # of a summed squared error, which is ours times the variance
L0_COEFFICIENT, L1_COEFFICIENT = 2e-3, 0.12
STEERED = ("jumprelu", "gated")
FACTOR, TRIALS = 2.0, 7  # step to the next coefficient, and the number of coefficients tried
NEAR = 1.5  # largest ratio of two L0s for an interpolation between them
Row = dict[str, Any]
Point = tuple[float, float, float]  # factor on the coefficient, L0, FVU


class Comparison:
    """The activations on which both libraries train and are measured."""

    def __init__(self, stored_ND: Tensor, calibration: list[Tensor], evaluation: list[Tensor], layer: int, steps: int,
                 ) -> None:
        self.steps, self.layer = steps, layer
        scaled = Normalizer.fit("dataset", stored_ND[:100_000])
        self.train_ND = scaled.apply(stored_ND[: steps * BATCH].float())[0]
        self.calibration = [scaled.apply(x_ND)[0] for x_ND in calibration]
        self.evaluation = [scaled.apply(x_ND)[0] for x_ND in evaluation]
        self.start = DataStatistics.measure(self.train_ND[:32_768])

    def rows(self, rates: Sequence[float], say: Callable[[str], None]) -> Iterator[Row]:
        """Yield the result of each architecture at each learning rate."""
        with tempfile.TemporaryDirectory() as folder:
            data = str(Path(folder) / "y.npy")
            np.save(data, self.train_ND.numpy())
            for architecture in ARCHITECTURES:
                for self.lr in rates:
                    row = self.row(architecture, data, Path(folder) / f"{architecture}-{self.lr}")
                    say(f"{architecture:12} {self.lr:g}: saescope {row['fvu']:.4f}, SAELens {row['peer_fvu']:.4f} "
                        f"at L0 {row['peer_l0']:.1f} ({row['seconds']:.0f} s and {row['peer_seconds']:.0f} s)")
                    yield row

    def row(self, architecture: str, data: str, folder: Path) -> Row:
        theirs, peer_seconds = self.peer(architecture, data, folder)
        own_rule = reconstruction_metrics(theirs, iter(self.evaluation))
        theirs = self._at_k(theirs, architecture)
        peer = reconstruction_metrics(theirs, iter(self.evaluation))
        points: list[Point] = []
        seconds, factor = 0.0, 1.0
        while factor:
            ours, took = self.ours(architecture, factor)
            found = reconstruction_metrics(self._at_k(ours, architecture), iter(self.evaluation))
            points.append((factor, found["l0"], found["fvu"]))
            seconds = seconds or took
            factor = next_factor(points, peer["l0"]) if architecture in STEERED and len(points) < TRIALS else 0.0
        around = bracket(points, peer["l0"]) if architecture in STEERED else None
        fvu = interpolated(around, peer["l0"]) if around else points[-1][2]
        return {"architecture": architecture, "lr": self.lr, "fvu": fvu,
                "matched": around is not None or architecture not in STEERED,
                "points": points, "peer_fvu": peer["fvu"], "peer_l0": peer["l0"], "peer_dead": peer["dead"],
                "peer_own_rule": {name: own_rule[name] for name in ("l0", "fvu")},
                "seconds": seconds, "peer_seconds": peer_seconds}

    def ours(self, architecture: str, factor: float) -> tuple[Autoencoder, float]:
        spec = TrainSpec(
            architecture=architecture, n_latents=LATENTS, k=K, normalize="none", tokens=self.steps * BATCH,
            batch_tokens=BATCH, lr=self.lr, warmup_steps=WARMUP, decay_fraction=DECAY, l0_penalty="linear",
            l0_coefficient=L0_COEFFICIENT * factor, l1_coefficient=L1_COEFFICIENT * factor,
            clip_norm=CLIP_NORM / self.start.variance)
        trained = train(spec, StoredActivations(self.train_ND, BATCH), torch.device("cpu"))
        return artefact(trained, {"normalize": "none", "architecture": architecture, "k": K, "n_latents": LATENTS,
                                  "site": {"layer": self.layer, "hook": resid_post(self.layer)}}), trained.seconds

    def peer(self, architecture: str, data: str, folder: Path) -> tuple[Autoencoder, float]:
        steps = {"total_training_samples": self.steps * BATCH, "train_batch_size_samples": BATCH, "lr": self.lr,
                 "lr_warm_up_steps": WARMUP, "lr_decay_steps": int(DECAY * self.steps), "adam_beta2": 0.99,
                 "dead_feature_window": self.steps // 10}
        name, own, fill = self._peer_settings(architecture)
        with saelens() as worker:
            worker.ask(make={
                "architecture": name, "seed": 0, "b_dec": self.start.b_dec_D.tolist(), "fill": fill, "trainer": steps,
                "sae": {"d_sae": LATENTS, "decoder_init_norm": 1.0, "apply_b_dec_to_input": True, **own}},
                data=data, device="cpu")
            seconds = float(worker.ask(save=str(folder))["seconds"])
        return load(folder), seconds

    def _peer_settings(self, architecture: str) -> tuple[str, dict[str, Any], dict[str, float]]:
        """Return SAELens' name of an architecture, its settings, and parameters to fill with a number.

        SAELens' loss is ours times the variance.
        """
        variance, scale, warm = self.start.variance, self.start.input_scale, self.steps // 10
        settings: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
            "topk": ("topk", {"k": K}, {}),
            "batch_topk": ("batchtopk", {"k": K}, {}),
            "matryoshka": ("matryoshka_batchtopk", {
                "k": K, "matryoshka_widths": list(prefix_sizes("1/16, 1/8, 1/4, 1/2, 1", LATENTS))}, {}),
            "jumprelu": ("jumprelu", {
                "jumprelu_init_threshold": 1.5 * scale, "jumprelu_bandwidth": 0.1 * scale, "l0_warm_up_steps": warm,
                "l0_coefficient": L0_COEFFICIENT * variance}, {}),
            "gated": ("gated", {"l1_coefficient": L1_COEFFICIENT * variance**0.5, "l1_warm_up_steps": warm},
                      {"b_gate": -1.5 * scale})}
        return settings[architecture]

    def _at_k(self, sae: Autoencoder, architecture: str) -> Autoencoder:
        """Set the SAE's θ so that the mean L0 is k, if it has a single θ, and return the SAE."""
        if architecture in ONE_THETA:
            theta = calibrate_threshold(sae, self.calibration, K)
            assert abs(mean_l0(sae, self.calibration, theta) - K) < 0.5
            sae.sparsity.load_tensors({"threshold": torch.full((LATENTS if sae.config["architecture"] == "jumprelu"
                                                                else 1,), theta)})
        return sae


def bracket(points: Sequence[Point], l0: float) -> tuple[Point, Point] | None:
    """Return the two nearest points with `l0` between their L0s, or None."""
    below, above = [p for p in points if p[1] <= l0], [p for p in points if p[1] > l0]
    return (max(below, key=lambda p: p[1]), min(above, key=lambda p: p[1])) if below and above else None


def next_factor(points: Sequence[Point], l0: float) -> float:
    """Return the factor to try next to reach an L0, or 0 if the points are near enough to it."""
    around = bracket(points, l0)
    if around is None:  # a larger coefficient means fewer latents
        return points[-1][0] * (FACTOR if points[-1][1] > l0 else 1 / FACTOR)
    below, above = around
    if above[1] <= NEAR * below[1]:
        return 0.0
    share = math.log(l0 / below[1]) / math.log(above[1] / below[1])
    return math.exp(math.log(below[0]) + share * math.log(above[0] / below[0]))


def interpolated(around: tuple[Point, Point], l0: float) -> float:
    """Return the interpolated FVU at an L0 between two points."""
    (_, x0, y0), (_, x1, y1) = around
    return y0 * (y1 / y0) ** (math.log(l0 / x0) / math.log(x1 / x0))


def as_table(rows: list[Row]) -> str:
    """Return both FVUs as a table."""
    return table(
        ["architecture", "rate", "L0", "FVU, saescope", "FVU, SAELens", "ratio", "saescope trained at (L0, FVU)",
         "SAELens with its own θ (L0, FVU)", "seconds, saescope", "SAELens"],
        [[row["architecture"], f"{row['lr']:g}", f"{row['peer_l0']:.1f}", f"{row['fvu']:.4f}", f"{row['peer_fvu']:.4f}",
          f"{row['fvu'] / row['peer_fvu']:.3f}{'' if row['matched'] else ' (L0 not reached)'}",
          ", ".join(f"{l0:.1f} {fvu:.4f}" for _, l0, fvu in row["points"]),
          f"{row['peer_own_rule']['l0']:.1f} {row['peer_own_rule']['fvu']:.4f}", f"{row['seconds']:.0f}",
          f"{row['peer_seconds']:.0f}"] for row in rows])


def bars(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the goals: held-out FVU at most 1% above SAELens'."""
    return [bar(f"FVU over SAELens', {row['architecture']}, rate {row['lr']:g}", row["fvu"] / row["peer_fvu"], "≤ 1.01",
                row["matched"] and row["fvu"] <= 1.01 * row["peer_fvu"]) for row in rows]
