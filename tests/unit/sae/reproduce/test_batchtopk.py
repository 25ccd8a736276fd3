"""Tests of the BatchTopK paper's grid, verdicts and figures."""

from __future__ import annotations

from typing import Any

import pytest

from sae.reproduce import batchtopk
from sae.reproduce.batchtopk import PAPER, cells, claims, figures
from sae.reproduce.results import Results
from sae.reproduce.setup import Cell, Setup
from tests.unit.sae.reproduce.rows import SETUP, rows_of


def better(cell: Cell, seed: int) -> float:
    return cell.k**-0.5 * {"topk": 1.0, "batch_topk": 0.95, "jumprelu": 0.97}[cell.architecture] + 1e-4 * seed


def verdicts(rows: list[dict[str, Any]], setup: Setup = SETUP) -> list[str]:
    return [claim.verdict for claim in claims(Results(rows), setup)]


def test_the_grid_is_the_papers() -> None:
    grid = [(cell.architecture, cell.n_latents, cell.k) for cell in cells(SETUP)]
    assert len(grid) == len(set(grid)) == 2 * (3 + 2) + 3
    assert {n for a, n, k in grid if a == "topk" and k == 16} == {256, 512, 1024}
    assert {k for a, n, k in grid if a == "batch_topk" and n == 512} == {8, 16, 32}
    assert [(n, k) for a, n, k in grid if a == "jumprelu"] == [(512, 8), (512, 16), (512, 32)]


def test_a_grid_in_which_everything_holds_reproduces_everything_that_it_can_test() -> None:
    assert verdicts(rows_of(PAPER, better)) == ["reproduced"] * 9 + ["not tested here"]


def test_one_setting_of_the_other_sign_is_enough_to_fail() -> None:
    found = claims(Results(rows_of(PAPER, lambda cell, seed: better(cell, seed) * (
        1.2 if (cell.architecture, cell.n_latents) == ("batch_topk", 1024) else 1.0))), SETUP)
    assert found[0].verdict == "not reproduced"
    assert "holds in 2 of 3 settings, the opposite in 1" in found[0].found
    assert found[1].verdict == "reproduced"


def test_noise_larger_than_the_difference_does_not_reproduce() -> None:
    noise = {0: 0.2, 1: -0.2, 2: 0.0}
    found = claims(Results(rows_of(PAPER, lambda cell, seed: better(cell, seed) * (
        1 + noise[seed] * (cell.architecture == "batch_topk")))), SETUP)
    assert found[0].verdict == "not reproduced"
    assert "the seeds do not decide in 3" in found[0].found


def test_one_seed_decides_nothing() -> None:
    rows = [row for row in rows_of(PAPER, better) if row["seed"] == 0]
    assert verdicts(rows)[:6] == ["not tested here"] * 6
    assert verdicts([]) == ["not tested here"] * 10


@pytest.mark.parametrize(("changes", "which"), [
    ({"threshold": lambda cell, seed: {"l0_trained": cell.k * 1.2}}, 6), ({"l0_histogram": [0] * 14 + [9] * 5}, 7),
    ({"bos_l0": 12}, 8)])
def test_claims_about_l0_can_fail(changes: dict[str, Any], which: int) -> None:
    found = verdicts(rows_of(PAPER, better, **changes))
    assert found[which] == "not reproduced"
    assert found.count("not reproduced") == 1


def test_the_figures_hold_the_grid() -> None:
    size_fvu, size_ce, k_fvu, _, histogram = figures(Results(rows_of(PAPER, better)), SETUP)
    assert [line.name for line in size_fvu.lines] == ["TopK", "BatchTopK"]
    assert [x for x, _ in size_ce.lines[0].points] == [256, 512, 1024]
    assert [x for x, _ in k_fvu.lines[2].points] == [8, 16, 32]
    assert sum(s.mean for _, s in histogram.lines[0].points) == pytest.approx(100)
    assert histogram.marks == ((4.0, "BOS: 4.0"),)
    assert batchtopk.histogram_range([0, 0, 3, 0, 1, 0]) == (2, 4)
