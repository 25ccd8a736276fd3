"""Tests of training and measurement on the embedded model: the quick report, a stop in the middle, details."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae.errors import UserError
from sae.reproduce import train


def stable(data: Path) -> list[dict[str, Any]]:
    """Return the rows of a report without times."""
    rows: list[dict[str, Any]] = json.loads(data.read_text())["rows"]
    return [{name: value for name, value in row.items() if name != "seconds_of_seed"} for row in rows]


@pytest.mark.heavy
def test_a_stopped_grid_goes_on_and_ends_with_the_same_numbers(
    command: Callable[..., tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = command(tmp_path / "whole")
    out = tmp_path / "stopped"
    bench = train._Bench.rows

    def killed(self: Any, cells: Any, seed: int, checkpoint: Path) -> Any:
        if seed == 1:
            def stop(phase: str, done: int, total: int) -> None:
                if phase.startswith("training") and done >= total // 2:
                    raise KeyboardInterrupt
            self.report = stop
        return bench(self, cells, seed, checkpoint)

    monkeypatch.setattr(train._Bench, "rows", killed)
    monkeypatch.setattr("sae.training.loop._CHECKPOINT_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        command(out)
    assert {path.name for path in out.iterdir()} >= {"grid.json", "seed-0.json", "seed-1.pt"}
    assert not (out / "seed-1.json").exists()
    trained: list[int] = []

    def watched(self: Any, cells: Any, seed: int, checkpoint: Path) -> Any:
        trained.append(seed)
        return bench(self, cells, seed, checkpoint)

    monkeypatch.setattr(train._Bench, "rows", watched)
    page, data = command(out)
    assert trained == [1]
    assert stable(data) == stable(whole)
    assert len(stable(data)) == 2 * 8
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not list(out.glob("*.pt*"))
    # More seeds are added to the finished ones; other settings need another folder.
    trained.clear()
    _, more = command(out, seeds=3)
    assert trained == [2]
    assert stable(more)[:16] == stable(whole)
    with pytest.raises(UserError, match=r"out: .* holds the results of other settings"):
        command(out, tokens=2_048)


def test_the_scaling_grid_measures_refinement_and_recovery(
    command: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    _, data = command(tmp_path / "out", "topk-scaling", sizes="16,24,32", ks="2,4,8", seeds=1)
    rows = stable(data)
    detailed = [row for row in rows if row["cell"]["detailed"]]
    assert {row["kind"] for row in detailed} == {"topk", "multi_topk", "relu"}
    for row in detailed:
        assert row["refinement"]["fvu_after"] <= row["refinement"]["fvu_before"] + 1e-6
        assert row["recovery"]["topk"].keys() == {"2", "4", "8", "16", "32"}
    record = json.loads(data.read_text())
    assert {figure["title"].partition(":")[0] for figure in record["figures"]} >= {"Figure 9", "Figure 10"}
