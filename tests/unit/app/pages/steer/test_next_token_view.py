"""Tests of next-token tables and the chart of KL along a text."""

from __future__ import annotations

import pytest

from app.pages.steer.next_token_view import NextRow, kl_chart, next_tables, readout_request, title_of
from app.pages.steer.run_view import run_view
from app.worker.protocol import NextToken, NextTokens, ReadOut, Text
from tests.unit.app.pages.steer.made_runs import PROMPT, request, result, row, text


@pytest.mark.parametrize(("position", "asked"), [(1, (0, 1)), (3, (2, 3)), (4, (3,)), (0, (0,))])
def test_a_token_is_asked_about_with_the_one_after_it(position: int, asked: tuple[int, ...]) -> None:
    made = readout_request(request(), PROMPT, text("a", "b"), position)
    assert (made.ids, made.prompt_tokens, made.top) == ((0, 5, 100, 101), 2, 10)
    assert made.positions == asked


def answer(*tables: NextTokens) -> ReadOut:
    return ReadOut(ids=[0, 5, 100], pieces=["<|bos|>", "def", " a"], kl=[0.0, 0.5, 0.25], tables=list(tables),
                   baseline_acts=[], steered_acts=[])


def test_a_table_says_what_came_and_what_steering_changed() -> None:
    rows = [NextToken(id=100, piece=" a", baseline=0.5, steered=0.25),
            NextToken(id=7, piece="\n", baseline=0.1, steered=0.6)]
    (table,) = next_tables(answer(NextTokens(position=1, rows=rows)))
    assert (table.position, table.kl, table.came) == (2, 0.5, "·a")
    assert [(r.label, r.came, r.css, r.points) for r in table.rows] == [
        ("·a", True, "o2", "−25.0"), ("↵", False, "b4", "+50.0")]


def test_after_the_last_token_nothing_came() -> None:
    (table,) = next_tables(answer(NextTokens(position=2, rows=[NextToken(id=1, piece="x", baseline=0, steered=0)])))
    assert (table.position, table.came, table.rows[0].came) == (3, None, False)


@pytest.mark.parametrize(("steered", "points"), [(0.5, "0.0"), (0.5004, "0.0"), (0.4996, "0.0"), (0.6, "+10.0")])
def test_what_rounds_to_zero_has_no_sign(steered: float, points: str) -> None:
    assert NextRow("a", 0.5, steered, "", False).points == points


def test_kl_is_drawn_for_the_steered_columns() -> None:
    texts = {"baseline": text("a", "b"), "steered": text("a", "b", kl=[0.25, 0.5])}
    chart = kl_chart(run_view(row(request(), result(texts)), None))
    assert chart is not None
    assert chart.count("<polyline") == 1
    assert "2: Steered 0.250" in chart, "output begins at position 2"
    assert "3: Steered 0.500" in chart


def test_samples_are_lines_with_their_numbers() -> None:
    texts = {f"steered{end}": text("a", "b", kl=[0.25, 0.5]) for end in ("", ".2")}
    chart = kl_chart(run_view(row(request(samples=2), result(texts)), None))
    assert chart is not None
    assert chart.count("<polyline") == 2
    assert "Steered 1</span>" in chart
    assert "Steered 2</span>" in chart


@pytest.mark.parametrize("kl", [[], [0.5]])
def test_too_few_values_are_no_chart(kl: list[float]) -> None:
    assert kl_chart(run_view(row(request(), result({"steered": Text(ids=[1], pieces=["a"], kl=kl)})), None)) is None


def test_titles_of_columns_and_of_cells() -> None:
    assert [title_of(name) for name in ("steered", "control.3", "7")] == ["Steered", "Random control", "7"]
