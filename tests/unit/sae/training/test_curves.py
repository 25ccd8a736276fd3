"""The rows that the loop writes are sums over the steps since the last row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae.training import loop as engine
from sae.training.loop import train
from tests.unit.sae.planted import mixtures
from tests.unit.sae.training.small_runs import CPU, GRID, rows_of, source_of, spec_of


def test_a_row_says_how_each_stands() -> None:
    x_ND, _ = mixtures(500, 30, 16)
    rows = rows_of(GRID.members(), source_of(x_ND), CPU)
    last = rows[-8:]
    assert [row["member"] for row in last] == list(range(8))
    for row, spec in zip(last, GRID.members(), strict=True):
        assert row["step"] == 20
        assert row["tokens"] == 64 * 20
        assert row["tokens_per_s"] > 0
        assert row["sae_tokens_per_s"] >= row["tokens_per_s"]
        assert row["lm_tokens_per_s"] is None  # nothing was read
        assert row["lm_share"] == 0
        assert 0 <= row["dead"] <= 1
        assert row["theta"] > 0
        assert (row["coefficient"] is not None) == (spec.architecture in ("jumprelu", "gated"))
        assert (row["sparsity_loss"] > 0) == (spec.architecture in ("jumprelu", "gated"))
        assert row["l0_deciles"] == sorted(row["l0_deciles"])
        assert len(row["l0_deciles"]) == 9


def test_the_figures_of_a_row_are_those_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with sums over every step's codes and errors."""
    x_ND, _ = mixtures(500, 30, 16)
    spec = spec_of(normalize="layer_norm")
    seen: list[tuple[Tensor, Tensor, float]] = []
    plain_step = engine.SAETrainer.step

    def step(self: Any, y_BD: Tensor, lr: float, target_BD: Tensor | None = None) -> Any:
        result = plain_step(self, y_BD, lr, target_BD)
        l0_B = torch.bincount(result.codes.token_N, minlength=len(y_BD))
        seen.append((result.error_BD.clone(), l0_B, float(result.loss)))
        return result

    monkeypatch.setattr(engine.SAETrainer, "step", step)
    monkeypatch.setattr(engine, "_LOG_S", 1e9)
    (row,) = rows_of([spec], source_of(x_ND), CPU)
    error = variance = 0.0
    for x_BD, (error_BD, _, _) in zip(source_of(x_ND).batches(), seen, strict=False):
        error += float((error_BD * (x_BD.std(dim=1, keepdim=True) + 1e-5)).square().sum())
        variance += float((x_BD - x_BD.mean(dim=0)).square().sum())
    l0_T = torch.cat([l0_B for _, l0_B, _ in seen]).double()
    assert row["fvu"] == pytest.approx(error / variance, rel=1e-5)
    assert row["l0"] == pytest.approx(float(l0_T.mean()), rel=1e-9)
    assert row["loss"] == pytest.approx(sum(loss for _, _, loss in seen) / 20, rel=1e-6)
    ordered = l0_T.sort().values
    assert row["l0_deciles"] == [int(ordered[-(-len(ordered) * tenth // 10) - 1]) for tenth in range(1, 10)]


def test_a_long_run_writes_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the time between rows grows with the run's time and with the number of its SAEs."""
    x_ND, _ = mixtures(500, 30, 16)
    monkeypatch.setattr(engine, "_LOG_S", 0.0)
    assert len(rows_of([spec_of()], source_of(x_ND), CPU)) == 20
    monkeypatch.setattr(engine, "_ROWS", 1e-9)
    assert len(rows_of([spec_of()], source_of(x_ND), CPU)) == 1


def test_curves_are_sums_over_all_steps_since_the_last_row() -> None:
    x_ND, _ = mixtures(500, 30, 16)
    rows: list[dict[str, Any]] = []
    train(spec_of(tokens=64 * 16), source_of(x_ND), CPU, row=lambda **row: rows.append(row))
    assert rows[-1]["step"] == 16
    assert sum(row["tokens"] for row in rows) >= rows[-1]["tokens"] == 64 * 16
    assert all(0 < row["l0"] <= 3 and row["fvu"] > 0 and 0 <= row["dead"] <= 1 for row in rows)
