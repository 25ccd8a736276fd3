"""The statistics from which an SAE starts."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.autoencoder.architectures.data_statistics import geometric_median


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
