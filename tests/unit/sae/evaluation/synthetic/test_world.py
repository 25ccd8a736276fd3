"""Tests of the synthetic world: probabilities, trees, correlation, magnitudes, and its source of activations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae.evaluation.synthetic.world import Recipe, SyntheticStream, World, levels, orthogonal, zipf

FLAT = Recipe(n_features=40, d_model=24, max_probability=0.3, min_probability=0.02, roots=40, depth=1, rank=4,
              orthogonal_steps=0)
TREES = replace(FLAT, n_features=60, roots=8, branching=4, depth=2)


def test_probabilities_fall_from_the_largest_to_the_smallest_by_zipfs_law() -> None:
    p = zipf(Recipe(n_features=1000))
    assert float(p[0]) == pytest.approx(0.4)
    assert float(p[-1]) == pytest.approx(5e-4)
    power = torch.arange(1, 1001).double() ** -0.5
    line = (p.double() - p[-1]) / (power - power[-1])
    assert torch.allclose(line[:-1], line[:1], rtol=1e-3)


def test_the_trees_are_built_breadth_first_and_hold_whole_families() -> None:
    two = levels(TREES)
    assert [(level.first, level.parents) for level in two] == [(8, slice(0, 8)), (40, slice(8, 13))]
    full = levels(Recipe())
    assert [level.n for level in full] == [128, 512, 2048]
    assert full[-1].first + 4 * full[-1].n == 128 * (1 + 4 + 16 + 64)


def test_without_trees_features_fire_as_often_as_asked_and_with_their_magnitudes() -> None:
    world = World(FLAT)
    truth = torch.cat([truth for truth, _ in world.samples(40_000, 3)])
    rate = (truth > 0).float().mean(dim=0)
    assert torch.allclose(rate, zipf(FLAT), atol=0.012)
    mean = truth.sum(dim=0) / (truth > 0).sum(dim=0)
    assert torch.allclose(mean, world.mean_F, atol=0.12)


def test_correlation_is_that_of_the_factors() -> None:
    world = World(replace(FLAT, correlation=0.4, max_probability=0.5, min_probability=0.49))
    truth = torch.cat([truth for truth, _ in world.samples(40_000, 5)])
    assert torch.allclose(world.own_F.square() + world.factor_FR.square().sum(dim=1), torch.ones(40))
    # At a rate of 1/2 the correlation of two firings is 2/π · arcsin of the Gaussian one.
    expected = 2 / torch.pi * torch.asin((world.factor_FR @ world.factor_FR.T).clamp(-1, 1))
    found = torch.corrcoef((truth > 0).float().T)
    off = ~torch.eye(40, dtype=torch.bool)
    assert torch.allclose(found[off], expected[off], atol=0.03)


def test_a_child_fires_only_with_its_parent_alone_among_its_siblings_and_scaled() -> None:
    world = World(replace(TREES, magnitude_sd=0.0))
    truth = torch.cat([truth for truth, _ in world.samples(20_000, 4)])
    for level in world.levels:
        for i, parent in enumerate(range(level.parents.start, level.parents.stop)):
            children = truth[:, level.first + 4 * i : level.first + 4 * i + 4]
            assert not bool((children[truth[:, parent] == 0] > 0).any())
            assert int((children > 0).sum(dim=1).max()) <= 1
            fired, which = (children > 0).nonzero(as_tuple=True)
            scale = truth[fired, parent] / world.mean_F[parent]
            own = world.mean_F[level.first + 4 * i + which]
            assert torch.allclose(children[fired, which], own * scale, rtol=1e-4)


def test_orthogonalisation_lowers_the_cosines_and_follows_the_gradient() -> None:
    rows = torch.nn.functional.normalize(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)), dim=1)

    def loss(x: torch.Tensor) -> torch.Tensor:
        dots = x @ x.T
        return (dots - torch.diag(dots.diag())).square().sum() + 48 * (dots.diag() - 1).square().sum()

    # The first step of Adam has the sign of the gradient.
    free = rows.clone().requires_grad_()
    loss(free).backward()
    assert free.grad is not None
    moved = torch.nn.functional.normalize(rows - 1e-3 * free.grad.sign(), dim=1)
    assert torch.allclose(orthogonal(rows, 1, 1e-3), moved, atol=1e-5)
    after = orthogonal(rows, 60, 3e-3)
    off = ~torch.eye(48, dtype=torch.bool)
    assert (after @ after.T)[off].abs().mean() < 0.85 * (rows @ rows.T)[off].abs().mean()
    assert torch.allclose(after.norm(dim=1), torch.ones(48))


def test_batches_follow_from_the_step_and_the_seed() -> None:
    world = World(TREES)
    stream = SyntheticStream(world, 16, seed=3)
    batches = stream.batches()
    first, second = next(batches), next(batches)
    assert torch.equal(next(SyntheticStream(world, 16, seed=3).batches(1)), second)
    assert not torch.equal(first, second)
    assert not torch.equal(next(SyntheticStream(world, 16, seed=4).batches()), first)
    assert stream.widths == (24,)
    assert stream.sample(50).shape == (50, 24)
    truth = world.truths(16, (2 * 3 + 2) * 1_000_000_007)
    assert torch.allclose(first, truth @ world.features_FD + world.bias_D)
