"""Rows of a grid made by formula, for tests of claims, figures and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sae.reproduce.paper import Paper
from sae.reproduce.setup import Cell, Setup

SETUP = Setup(sizes=(256, 512, 1024), size=512, ks=(8, 16, 32), k=16, seeds=3)


def rows_of(paper: Paper, fvu: Callable[[Cell, int], float], **changes: Any) -> list[dict[str, Any]]:
    """Return the rows of a paper's grid with FVU by formula; callables in `changes` get the cell and the seed."""
    out = []
    for seed in range(SETUP.seeds):
        for cell in paper.cells(SETUP):
            l0 = cell.k if cell.architecture not in ("relu", "gated") else 2.4 / cell.l1_coefficient
            row: dict[str, Any] = {
                "cell": cell.model_dump(), "kind": cell.kind, "seed": seed, "fvu": fvu(cell, seed), "l0": float(l0),
                "l0_std": 5.0, "delta_ce": 2 * fvu(cell, seed), "ce_recovered_zero": 0.9, "bos_l0": 4,
                "dead_fraction": 0.01, "threshold": {"trained": 1.0, "l0_trained": l0 * 1.02},
                "l0_histogram": [0, 3, *[5] * 50]}
            if cell.detailed:
                bias = 0.1 if cell.architecture == "relu" else 0.001
                row["refinement"] = {"bias": bias + 1e-4 * seed, "size": 2 * bias + 0.001 * seed, "fvu_before": 0.2,
                                     "fvu_after": 0.19, "quantiles": {"0.05": -0.3, "0.5": bias, "0.95": 0.4}}
                worse = 2.0 if cell.kind == "topk" else 0.8
                curve = {str(k): fvu(cell, seed) * (worse if k > cell.k else 1.0) + 0.001 * k
                         for k in (4, 8, 16, 32, 64, 128)}
                above = 1.3 if cell.kind == "topk" else 1.0
                row["recovery"] = {"topk": curve, "threshold": {
                    k: value * (above if int(k) > cell.k else 1.0) for k, value in curve.items()}}
            row.update({name: value(cell, seed) if callable(value) else value for name, value in changes.items()})
            out.append(row)
    return out
