"""The file of a comparison, and every query of it that the page makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sae.errors import UserError
from sae.store.comparison import PARTNER_COSINE, Comparison, comparison_path, write_comparison
from sae.workspace.paths import Workspace

# side, latent, fires, others, cosines, mate, phi: three coarse latents against five fine ones
ROWS = [
    (0, 0, 90, [1, 0], [0.91, 0.61], 1, 0.8), (0, 1, 30, [3, 4], [0.56, 0.21], -1, 0.0),
    (0, 2, 0, [4, 1], [0.1, 0.0], -1, 0.0),
    (1, 0, 10, [0, 1], [0.61, 0.1], 0, 0.3), (1, 1, 70, [0, 2], [0.91, 0.2], 0, 0.8),
    (1, 2, 5, [0, 1], [0.52, 0.5], -1, 0.0), (1, 3, 9, [1, 0], [0.56, 0.5], -1, 0.0),
    (1, 4, 8, [1, 2], [-0.21, -0.3], 2, 0.1)]


@pytest.fixture
def comparison(tmp_path: Path) -> Any:
    path = comparison_path(Workspace(tmp_path), "m/fine", "m/coarse")
    names = ("side", "latent", "fires", "others", "cosines", "mate", "phi")
    write_comparison(path, {"a": "m/coarse", "b": "m/fine"},
                     pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in ROWS]))
    found = Comparison.open(path)
    yield found
    found.close()


def test_both_orders_of_the_names_mean_the_same_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert comparison_path(workspace, "m/a", "m/b") == comparison_path(workspace, "m/b", "m/a")
    with pytest.raises(UserError, match="b: this is the same SAE"):
        comparison_path(workspace, "m/a", "m/a")


def test_lists(comparison: Comparison) -> None:
    assert (comparison.side_of("m/coarse"), comparison.side_of("m/fine")) == (0, 1)
    assert [m.latent for m in comparison.matches(1)] == [1, 0, 3, 2, 4]
    assert [m.latent for m in comparison.matches(1, "phi")] == [1, 0, 4, 2, 3]
    assert [m.latent for m in comparison.matches(1, "fires", descending=False, offset=1, limit=2)] == [4, 3]
    assert [m.latent for m in comparison.matches(1, only="alone")] == [0, 3, 2, 4]
    assert [m.latent for m in comparison.matches(0)] == [0, 1]  # a latent that never fires is not listed
    assert comparison.counts(0) == {"living": 2, "alone": 1}
    assert comparison.counts(1) == {"living": 5, "alone": 4}
    one = comparison.match(0, 1)
    assert one is not None
    assert (one.others, one.best_match) == ([3, 4], None)
    assert comparison.match(0, 9) is None
    with pytest.raises(UserError, match="sort"):
        comparison.matches(0, "name")


def test_histogram_and_splits(comparison: Comparison) -> None:
    bins = comparison.histogram(1)
    assert sum(n for _, _, n in bins) == 5
    assert all(n == sum(low <= row[4][0] < high for row in ROWS if row[0] == 1) for low, high, n in bins)
    splits = comparison.splits(0)
    assert [(s.latent, [i for i, _ in s.pieces]) for s in splits] == [(0, [1, 0, 2])]
    assert splits[0].pieces[0][1] == pytest.approx(0.91)
    assert comparison.splits(1) == []
    assert PARTNER_COSINE == 0.7


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not been compared"):
        Comparison.open(tmp_path / "none.duckdb")
    (tmp_path / "bad.duckdb").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="cannot be read"):
        Comparison.open(tmp_path / "bad.duckdb")
