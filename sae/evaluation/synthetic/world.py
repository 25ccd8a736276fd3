"""A world of known features whose sparse sums are activations, after SynthSAEBench (Chanin et al. 2026).

Features are nearly orthogonal unit vectors.  They fire by Zipf's law, correlated through a Gaussian copula of low rank.
The first ones form trees: a child fires only with its parent, at most one of the siblings fires, and a child's
magnitude is scaled by the parent's.  Firing probabilities are raised so that the trees do not lower them.

Shapes: F features, D width, N samples, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae.data.activations import Timing

_PIECE = 1 << 24  # entries of a dense [N, F] matrix at once


@dataclass(frozen=True)
class Recipe:
    """The parameters of a world; the defaults are SynthSAEBench's at full size."""

    n_features: int = 16_384
    d_model: int = 768
    zipf_exponent: float = 0.5
    max_probability: float = 0.4
    min_probability: float = 5e-4
    roots: int = 128
    branching: int = 4
    depth: int = 3
    rank: int = 25
    correlation: float = 0.1
    first_magnitude: float = 5.0
    last_magnitude: float = 4.0
    magnitude_sd: float = 0.5  # mean and standard deviation of the folded normal that the features' own sd comes from
    bias_norm: float = 0.5
    orthogonal_steps: int = 100
    orthogonal_lr: float = 3e-4
    seed: int = 42


@dataclass
class World:
    """The features of a recipe, and samples of them."""

    recipe: Recipe
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        r, generator = self.recipe, torch.Generator().manual_seed(self.recipe.seed)
        features_FD = torch.nn.functional.normalize(torch.randn(r.n_features, r.d_model, generator=generator), dim=1)
        bias_D = torch.nn.functional.normalize(torch.randn(r.d_model, generator=generator), dim=0)
        factor_FR = r.correlation * torch.randn(r.n_features, r.rank, generator=generator)
        shrink_F = (0.99 / factor_FR.square().sum(dim=1).clamp(min=1e-12)).sqrt().clamp(max=1.0)
        factor_FR *= shrink_F[:, None]
        sd_F = (r.magnitude_sd + r.magnitude_sd * torch.randn(r.n_features, generator=generator)).abs()
        self.levels = levels(r)
        probability_F = zipf(r)
        threshold_F = -math.sqrt(2) * torch.special.erfinv(2 * raised(probability_F, self.levels, r.branching) - 1)
        to = self.device
        self.features_FD = orthogonal(features_FD.to(to), r.orthogonal_steps, r.orthogonal_lr)
        self.bias_D, self.factor_FR = (r.bias_norm * bias_D).to(to), factor_FR.to(to)
        self.own_F = (1 - self.factor_FR.square().sum(dim=1)).sqrt()
        self.mean_F = torch.linspace(r.first_magnitude, r.last_magnitude, r.n_features).to(to)
        self.sd_F, self.threshold_F, self.probability_F = sd_F.to(to), threshold_F.to(to), probability_F.to(to)

    def truths(self, n: int, seed: int) -> Tensor:
        """Return the magnitudes of all features in `n` samples, 0 where a feature is silent: [N, F]."""
        generator = torch.Generator(self.device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=self.device)

        rank, n_features = self.factor_FR.shape[1], len(self.mean_F)
        score_NF = torch.addmm(normal(n, n_features) * self.own_F, normal(n, rank), self.factor_FR.T)
        fires = (score_NF > self.threshold_F).nonzero(as_tuple=True)
        truth_NF = torch.zeros_like(score_NF)
        truth_NF[fires] = (self.mean_F[fires[1]] + self.sd_F[fires[1]] * normal(len(fires[0]))).relu()
        b = self.recipe.branching
        for level in self.levels:
            parent_NG = truth_NF[:, level.parents]
            child_NGb = truth_NF[:, level.first : level.first + b * level.n].reshape(n, -1, b)
            child_NGb = child_NGb * (parent_NG / self.mean_F[level.parents])[..., None]
            chance_NGb = torch.rand(child_NGb.shape, generator=generator, device=self.device) * (child_NGb > 0)
            winner_NGb = torch.zeros_like(child_NGb).scatter_(2, chance_NGb.argmax(dim=2, keepdim=True), 1.0)
            truth_NF[:, level.first : level.first + b * level.n] = (child_NGb * winner_NGb).flatten(1)
        return truth_NF

    def activations(self, truth_NF: Tensor) -> Tensor:
        """Return the activations of samples, [N, D]."""
        return truth_NF @ self.features_FD + self.bias_D

    def samples(self, n: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield magnitudes [N, F] and activations [N, D] of `n` samples, in pieces that fit into memory."""
        size = max(1, min(8192, _PIECE // len(self.mean_F)))
        for number, start in enumerate(range(0, n, size)):
            truth_NF = self.truths(min(size, n - start), seed * 1_000_003 + number)
            yield truth_NF, self.activations(truth_NF)


@dataclass
class SyntheticStream:
    """Batches of a world's activations, for the trainer.  Batch and sample follow from the step and the seed alone."""

    world: World
    batch_tokens: int
    seed: int = 0
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self.widths: tuple[int, ...] = (self.world.features_FD.shape[1],)

    def sample(self, n_tokens: int) -> Tensor:
        """Return activations from which the trainer measures statistics of the data."""
        return torch.cat([x_ND for _, x_ND in self.world.samples(n_tokens, 2 * self.seed + 1)])

    def batches(self, start_step: int = 0) -> Iterator[Tensor]:
        """Yield endless batches from a step on."""
        while True:
            truth_NF = self.world.truths(self.batch_tokens, (2 * self.seed + 2) * 1_000_000_007 + start_step)
            yield self.world.activations(truth_NF)
            start_step += 1


@dataclass(frozen=True)
class Level:
    """One level of children: groups of siblings that follow each other from feature `first` on."""

    first: int
    parents: slice  # the features that have children here, in order; group i belongs to the i-th

    @property
    def n(self) -> int:
        return int(self.parents.stop - self.parents.start)


def levels(recipe: Recipe) -> list[Level]:
    """Return the levels of the trees, breadth first; a parent whose children do not all fit has none."""
    out, start, n = [], 0, min(recipe.roots, recipe.n_features)
    for _ in range(recipe.depth):
        first = start + n
        n_parents = min(n, (recipe.n_features - first) // recipe.branching)
        if n_parents < 1:
            break
        out.append(Level(first, slice(start, start + n_parents)))
        start, n = first, n_parents * recipe.branching
    return out


def zipf(recipe: Recipe) -> Tensor:
    """Return the features' firing probabilities, which fall from the largest to the smallest: [F]."""
    power_F = torch.arange(1, recipe.n_features + 1, dtype=torch.float64) ** -recipe.zipf_exponent
    share_F = (power_F - power_F[-1]) / (power_F[0] - power_F[-1])
    return (recipe.min_probability + (recipe.max_probability - recipe.min_probability) * share_F).float()


def raised(probability_F: Tensor, trees: list[Level], branching: int) -> Tensor:
    """Return the probabilities before trees are applied, after which the given ones are left approximately: [F]."""
    out_F = probability_F.clone()
    for level in trees:
        span = slice(level.first, level.first + branching * level.n)
        child_Gb = probability_F[span].reshape(-1, branching)
        parent_G1 = probability_F[level.parents][:, None]
        rivals_Gb = child_Gb.sum(dim=1, keepdim=True) - child_Gb
        out_F[span] = (child_Gb / parent_G1 * (1 + rivals_Gb / parent_G1)).flatten()
    return out_F.clamp(max=1.0 - 1e-6)


def orthogonal(features_FD: Tensor, steps: int, lr: float) -> Tensor:
    """Push unit vectors apart by Adam on Σ cos² of all pairs, with F times (norm² − 1)² to keep their length."""
    rows_FD = torch.nn.Parameter(features_FD.clone())
    adam = torch.optim.Adam([rows_FD], lr=lr)
    n = len(rows_FD)
    for _ in range(steps):
        with torch.no_grad():
            gradient_FD = torch.empty_like(rows_FD)
            for part in torch.split(torch.arange(n, device=rows_FD.device), max(1, _PIECE // n)):
                dots_PF = rows_FD[part] @ rows_FD.T
                own_P1 = dots_PF.gather(1, part[:, None])
                # Each pair counts twice in the sum, and each side has its own gradient.
                dots_PF.scatter_(1, part[:, None], n * (own_P1 - 1))
                gradient_FD[part] = 4 * dots_PF @ rows_FD
            rows_FD.grad = gradient_FD
        adam.step()
    return torch.nn.functional.normalize(rows_FD.detach(), dim=1)
