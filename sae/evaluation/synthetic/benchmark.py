"""The benchmark of all architectures in a synthetic world, between a perfect and a random dictionary.

Published scores of SynthSAEBench at full size (means over seeds, L0 = 25) stand next to ours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sae.autoencoder.architectures import REGISTRY
from sae.errors import UserError
from sae.evaluation.intervals import student_quantile
from sae.evaluation.synthetic.score import Chance, OfSAE, Oracle, score
from sae.evaluation.synthetic.world import Recipe, SyntheticStream, World
from sae.specs.registry import TrainSpec
from sae.training.loop import Trained, artefact, train_all

Progress = Callable[[str, int, int], None]  # called with the phase, work done and work in total; may raise to stop
ARCHITECTURES = ("batch_topk", "topk", "matryoshka", "jumprelu", "gated", "relu")
SCORES = ("mcc", "f1", "precision", "recall", "uniqueness", "explained_variance", "l0", "shrinkage", "dead")
_CHANCE_SEED = 1


@dataclass(frozen=True)
class Profile:
    """The size of a benchmark."""

    recipe: Recipe
    n_latents: int
    k: int
    tokens: int
    batch_tokens: int
    eval_samples: int
    lr: float = 0.0  # 0: the trainer's default
    prefixes: str = "1/16, 1/8, 1/4, 1/2, 1"
    l1: dict[str, float] = field(default_factory=dict)  # by architecture; chosen so that L0 is near k
    published: dict[str, dict[str, float]] = field(default_factory=dict)


PROFILES = {
    # About a minute on two cores: the shape of the full world at 1/32 of its features.
    "small": Profile(
        Recipe(n_features=512, d_model=64, max_probability=0.1, min_probability=2e-3, roots=16, depth=2, rank=8,
               orthogonal_lr=3e-3),
        n_latents=128, k=2, tokens=204_800, batch_tokens=256, eval_samples=20_000, prefixes="1/4, 1/2, 1",
        l1={"gated": 0.25, "relu": 0.25}),
    # The standard test: hours on a GPU.
    "full": Profile(
        Recipe(), n_latents=4096, k=25, tokens=200_000_000, batch_tokens=1024, eval_samples=500_000, lr=3e-4,
        l1={"gated": 0.1, "relu": 0.1}, published={
            "batch_topk": {"f1": 0.732, "mcc": 0.757, "uniqueness": 0.984, "explained_variance": 0.792},
            "matryoshka": {"f1": 0.879, "mcc": 0.793, "uniqueness": 0.999, "explained_variance": 0.779},
            "relu": {"f1": 0.556, "mcc": 0.604, "uniqueness": 0.898, "explained_variance": 0.765},
            "jumprelu": {"f1": 0.732, "mcc": 0.753, "uniqueness": 0.989, "explained_variance": 0.795}}),
}


def run(
    profile: Profile, architectures: Sequence[str], seeds: int, device: torch.device, progress: Progress
) -> list[dict[str, Any]]:
    """Train every architecture with every seed on one world and return a row of scores for each.

    The first two rows are the anchors: a perfect dictionary, and a random one whose latents fire at random.
    Raises UserError (field `architectures`) for an unknown architecture.
    """
    unknown = sorted(set(architectures) - set(ARCHITECTURES))
    if unknown:
        raise UserError(f"architectures: {', '.join(unknown)} is not one of {', '.join(ARCHITECTURES)}",
                        "architectures")
    progress("world", 0, 1)
    world = World(profile.recipe, device)
    rows = [_row("perfect", None, score(Oracle(world, profile.n_latents), world, _held_out(world, profile))),
            _row("random", None, score(Chance(world, profile.n_latents, profile.k, _CHANCE_SEED), world,
                                       _held_out(world, profile)))]
    for seed in range(seeds):
        specs = [spec_of(profile, architecture, seed) for architecture in architectures]
        stream = SyntheticStream(world, profile.batch_tokens, seed)
        outcomes = train_all(specs, stream, device, update=lambda tokens, seed=seed: progress(  # type: ignore[misc]
            f"training, seed {seed}", tokens, profile.tokens))
        for number, (spec, outcome) in enumerate(zip(specs, outcomes, strict=True)):
            progress(f"scores, seed {seed}", number, len(specs))
            if not isinstance(outcome, Trained):
                rows.append({"dictionary": spec.architecture, "seed": seed, "error": str(outcome)})
                continue
            sae = artefact(outcome, {
                "architecture": spec.architecture, "n_latents": spec.n_latents, "normalize": spec.normalize,
                "k": spec.k if REGISTRY[spec.architecture].has_k else None})
            rows.append(_row(spec.architecture, seed, score(OfSAE(sae), world, _held_out(world, profile))))
    return rows


def spec_of(profile: Profile, architecture: str, seed: int) -> TrainSpec:
    """Return the settings of one training."""
    own: dict[str, Any] = {"l1_coefficient": profile.l1[architecture]} if architecture in profile.l1 else {}
    if architecture == "matryoshka":
        own["prefixes"] = profile.prefixes
    return TrainSpec(architecture=architecture, n_latents=profile.n_latents, k=profile.k,  # type: ignore[arg-type]
                     tokens=profile.tokens, batch_tokens=profile.batch_tokens, normalize="dataset", lr=profile.lr,
                     seed=seed, **own)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per dictionary: the mean over seeds of every score, with a 95% interval from two seeds on."""
    out = []
    for name in dict.fromkeys(row["dictionary"] for row in rows):
        own = [row for row in rows if row["dictionary"] == name and "error" not in row]
        line: dict[str, Any] = {"dictionary": name, "seeds": len(own)}
        for key in SCORES if own else ():
            values = [row[key] for row in own]
            half = (student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
                    if len(values) > 1 else None)
            line[key] = {"mean": statistics.fmean(values), "half": half}
        out.append(line)
    return out


def _held_out(world: World, profile: Profile) -> Any:
    """Return samples that no training batch contains: batches and samples of the trainer have other seeds."""
    return world.samples(profile.eval_samples, 2**40)


def _row(name: str, seed: int | None, scores: dict[str, float]) -> dict[str, Any]:
    return {"dictionary": name, "seed": seed, **scores}
