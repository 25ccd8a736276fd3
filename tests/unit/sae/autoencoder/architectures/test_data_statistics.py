"""The statistics from which an SAE starts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.autoencoder.architectures.data_statistics import DataStatistics, geometric_median


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 5))
def test_no_point_near_the_geometric_median_is_nearer_to_the_rows(seed: int, n: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(n, width, generator=generator, dtype=torch.float64)
    median_D = geometric_median(x_ND, iterations=300)
    best = (x_ND - median_D).norm(dim=1).sum()
    for size in (1.0, 0.1, 0.01):
        other_D = median_D + size * torch.randn(width, generator=generator, dtype=torch.float64)
        assert (x_ND - other_D).norm(dim=1).sum() > best - 1e-3 * n


def test_the_geometric_median_does_not_follow_outliers() -> None:
    x_ND = torch.randn(101, 4, generator=torch.Generator().manual_seed(0))
    x_ND[:20] += 1e4
    assert geometric_median(x_ND).norm() < 1.5
    assert x_ND.mean(dim=0).norm() > 1000
    assert torch.isfinite(geometric_median(torch.zeros(3, 2))).all()


@pytest.mark.parametrize("width", [0, 3])
def test_statistics_are_of_the_target_and_scales_of_the_input(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    y_ND = 2 * torch.randn(500, width or 4, generator=generator) + 1
    target_ND = torch.randn(500, 4, generator=generator) - 3 if width else None
    found = DataStatistics.measure(y_ND, target_ND, "mean")
    wanted_ND = y_ND if target_ND is None else target_ND
    torch.testing.assert_close(found.b_dec_D, wanted_ND.mean(dim=0))
    assert found.variance == pytest.approx(float(wanted_ND.var(dim=0, correction=0).sum()), rel=1e-5)
    assert found.input_scale == pytest.approx(float(y_ND.var(dim=0, correction=0).mean().sqrt()), rel=1e-5)
    if target_ND is None:
        assert found.b_in_D is found.cross_ED is None
    else:
        torch.testing.assert_close(found.b_in_D, y_ND.mean(dim=0))
        assert found.cross_ED is not None
        both = torch.cat([y_ND, target_ND], dim=1).T.cov(correction=0)
        torch.testing.assert_close(found.cross_ED, both[:width, width:], rtol=1e-3, atol=1e-3)
