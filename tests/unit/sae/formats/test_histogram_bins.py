"""Histograms as bin centres and counts."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sae.formats.histogram_bins import Bins, log_spaced


@given(st.floats(0.01, 10), st.floats(1.05, 3), st.integers(4, 60), st.booleans(), st.data())
def test_bins_give_their_edges_back(low: float, step: float, n: int, log: bool, data: st.DataObject) -> None:
    edges = [low * step**i if log else low - 0.01 + (step - 1) * i for i in range(n + 1)]
    counts = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(any))
    bins = Bins.between(edges, counts)
    assert sum(bins.counts) == sum(counts)
    found = bins.edges()
    if len(bins.centres) >= 3 or (found and not log):
        start = next(i for i in range(n) if counts[i]) - 1
        for a, b in itertools.pairwise(range(len(found))):
            assert found[a] < found[b]
        np.testing.assert_allclose(found, edges[max(start, 0) :][: len(found)], rtol=1e-5, atol=1e-6)


def test_log_spaced_bins_are_detected() -> None:
    assert log_spaced(np.geomspace(0.1, 100, 64).tolist())
    assert log_spaced(np.geomspace(1, 1.4, 4).tolist())
    assert not log_spaced(np.linspace(0.3, 30, 50).tolist())
    assert not log_spaced([round(v, 3) for v in np.linspace(0.304, 30.073, 50)])
    assert not log_spaced([1.0, 2.0])
