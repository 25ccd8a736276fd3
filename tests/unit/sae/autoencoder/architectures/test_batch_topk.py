"""θ of BatchTopK is the mean over batches of the smallest activation kept."""

from __future__ import annotations

import pytest
import torch

from sae.autoencoder.architectures import REGISTRY, make
from sae.autoencoder.architectures.batch_topk import BatchTopK
from sae.kernels.select import above_threshold, batch_topk


def test_theta_is_the_mean_of_the_minima_and_survives_a_checkpoint() -> None:
    generator = torch.Generator().manual_seed(0)
    rule = BatchTopK(3)
    minima = []
    for _ in range(5):
        codes = rule.select_training(torch.randn(8, 20, generator=generator))
        assert len(codes.value_N) == 3 * 8
        rule.observe(codes)
        minima.append(float(codes.value_N.min()))
    assert rule.threshold == pytest.approx(sum(minima) / 5, abs=1e-12)
    again = BatchTopK(3)
    again.load_state(rule.state())
    assert again.threshold == rule.threshold
    rule.observe(codes)
    again.observe(codes)
    assert again.threshold == rule.threshold


def test_a_batch_without_any_activation_does_not_count() -> None:
    rule = BatchTopK(2)
    rule.observe(batch_topk(-torch.ones(4, 16), 8))
    assert rule.threshold is None
    assert rule.state() == {}


def test_inference_needs_a_threshold_and_then_does_not_see_the_batch() -> None:
    rule = BatchTopK(2)
    pre_BL = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="threshold"):
        rule.select(pre_BL)
    rule.threshold = 0.5
    whole = rule.select(pre_BL)
    alone = [rule.select(pre_BL[i : i + 1]) for i in range(6)]
    assert whole.latent_N.tolist() == [latent for codes in alone for latent in codes.latent_N.tolist()]
    assert whole.value_N.tolist() == above_threshold(pre_BL, 0.5).value_N.tolist()


def test_every_architecture_can_be_made() -> None:
    assert {name: make(name, 4).k for name in REGISTRY} == dict.fromkeys(REGISTRY, 4)
    assert make("topk", 4).threshold is None
