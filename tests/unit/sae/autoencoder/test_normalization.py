"""Normalisation can be inverted, and follows its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.autoencoder.normalization import Normalizer


def activations(seed: int, n_tokens: int, width: int, size: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n_tokens, width, generator=generator) + torch.randn(width, generator=generator)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["none", "dataset", "layer_norm", "constant_norm", "centre"]), st.integers(0, 2**32),
       st.integers(1, 20), st.integers(2, 30), st.sampled_from([0.01, 1.0, 300.0]))
def test_scale_and_shift_undo_it(kind: str, seed: int, n_tokens: int, width: int, size: float) -> None:
    x_BD = activations(seed, n_tokens, width, size)
    y_BD, scale_B1, shift_B1 = Normalizer.fit(kind, x_BD).apply(x_BD)
    assert scale_B1.shape == shift_B1.shape == (n_tokens, 1)
    torch.testing.assert_close(y_BD * scale_B1 + shift_B1, x_BD, rtol=1e-5, atol=1e-5 * size)


def test_layer_norm_is_by_the_unbiased_deviation_of_each_token() -> None:
    x_BD = activations(0, 7, 12)
    y_BD, scale_B1, shift_B1 = Normalizer("layer_norm").apply(x_BD)
    centred = x_BD - x_BD.sum(dim=1, keepdim=True) / 12
    deviation = (centred.square().sum(dim=1, keepdim=True) / 11).sqrt() + 1e-5
    torch.testing.assert_close(y_BD, centred / deviation)
    torch.testing.assert_close(scale_B1, deviation)
    torch.testing.assert_close(shift_B1, x_BD.mean(dim=1, keepdim=True))


def test_the_other_layer_norm_is_undone_with_the_deviation_alone() -> None:
    x_BD = activations(0, 7, 12)
    (y_BD, scale_B1, shift_B1), ours = Normalizer("layer_norm_std").apply(x_BD), Normalizer("layer_norm").apply(x_BD)
    assert torch.equal(y_BD, ours[0])
    assert torch.equal(shift_B1, ours[2])
    torch.testing.assert_close(scale_B1, x_BD.std(dim=1, keepdim=True))
    assert not torch.equal(scale_B1, ours[1])


def test_a_constant_norm_is_the_root_of_the_width_on_every_token() -> None:
    y_BD, *_ = Normalizer("constant_norm").apply(activations(2, 9, 16, 40.0))
    torch.testing.assert_close(y_BD.norm(dim=1), torch.full((9,), 4.0))
    assert bool(Normalizer("constant_norm").apply(torch.zeros(2, 8))[0].isfinite().all())


def test_centring_takes_the_mean_of_each_token_away() -> None:
    y_BD, scale_B1, _ = Normalizer("centre").apply(activations(3, 9, 16, 40.0))
    torch.testing.assert_close(y_BD.mean(dim=1), torch.zeros(9), atol=1e-5, rtol=0)
    assert bool((scale_B1 == 1).all())


def test_layer_norm_of_a_constant_vector_is_finite() -> None:
    y_BD, *_ = Normalizer("layer_norm").apply(torch.full((2, 8), 5.0))
    assert torch.equal(y_BD, torch.zeros(2, 8))


def test_dataset_scale_makes_the_mean_square_norm_the_width() -> None:
    x_BD = activations(1, 500, 16, 40.0)
    y_BD, *_ = Normalizer.fit("dataset", x_BD).apply(x_BD)
    assert float(y_BD.square().sum(dim=1).mean()) == pytest.approx(16, rel=1e-5)


@pytest.mark.parametrize("kind", ["none", "dataset", "layer_norm"])
def test_fit_of_zeros_changes_nothing(kind: str) -> None:
    y_BD, *_ = Normalizer.fit(kind, torch.zeros(3, 4)).apply(torch.zeros(3, 4))
    assert torch.equal(y_BD, torch.zeros(3, 4))
