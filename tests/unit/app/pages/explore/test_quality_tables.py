"""Tests of the tables of a measure's detail."""

from __future__ import annotations

from typing import Any

import pytest

from app.pages.explore.quality_tables import DetailCell, tables


def test_tasks_lead_to_their_best_latents() -> None:
    rows = [{"task": f"t{i}", "latent": i, "probe_loss": 0.25, "sparse": {"1": {"accuracy": 0.5}}, "raw": None}
            for i in range(14)]
    (table,) = tables({"tasks": rows, "other": [1]}, "demo/x")
    assert table.heads == ["task", "latent", "probe loss", "accuracy, 1 latent"], "columns that a row has"
    assert (len(table.rows), len(table.more)) == (12, 2)
    assert table.rows[3] == [DetailCell("t3"), DetailCell("3", "/demo/x/3", True), DetailCell("0.250", numeric=True),
                             DetailCell("50%", numeric=True)]


@pytest.mark.parametrize("rows", [3, [], [3], {"a": 1}])
def test_a_table_that_is_not_understood_is_left_out(rows: Any) -> None:
    assert tables({"concepts": rows}, "demo/x") == []


def test_a_missing_cell_is_a_dash() -> None:
    (table,) = tables({"concepts": [{"concept": None, "f1": "x"}, {"concept": "a", "f1": 0.5}]}, "demo/x")
    assert [cell.text for cell in table.rows[0]] == ["–", "–"]
    assert [cell.text for cell in table.rows[1]] == ["a", "0.500"]


def test_patterns_are_listed_up_to_three() -> None:
    def pattern(*tokens: str | None, at_start: bool = False) -> dict[str, Any]:
        return {"tokens": list(tokens), "at_start": at_start}

    many = [pattern("def", None, "("), pattern("x", at_start=True), pattern("c"), pattern("d"), pattern("e")]
    rows = [{"latent": 1, "patterns": many}, {"latent": 2, "patterns": []},
            {"latent": 3, "patterns": 5}]
    (table,) = tables({"latents": rows}, "demo/x")
    assert [row[1].text for row in table.rows] == ["“def*(”, “x” at the start, “c” and 2 more", "–", "–"]
    assert tables({"latents": {"density": [0.1]}}, "demo/x") == [], "columns with a number for each latent"
