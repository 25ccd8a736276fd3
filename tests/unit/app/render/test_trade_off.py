"""Tests of the scatter plot of two measures."""

from __future__ import annotations

import re

from app.render.charts import Frame
from app.render.trade_off import Spot, trade_off

FRAME = Frame("y against x", "x", "y", x_format=lambda x: f"{x:g}", y_format=lambda y: f"{y:g}")
ONE = Spot((1, 2, 3), (0.5, 0.5, 0.5), 0, "one", "/a/b")
TWO = Spot((4, 4, 4), (0.1, 0.2, 0.3), 1, "<two>", hollow=True)


def test_points_intervals_and_fronts() -> None:
    html = trade_off([ONE, TWO], FRAME, ["A", "B"], [(0, [ONE, TWO]), (1, [TWO])])
    assert html.count("c-whisker") == 2, "one interval across, one up"
    assert html.count("c-front") == 1, "a front of one point is no line"
    assert '<a href="/a/b" aria-label="one: x 2 (1 to 3), y 0.5"><circle' in html
    assert "&lt;two&gt;: x 4, y 0.2 (0.1 to 0.3)" in html
    assert html.count("<a ") == 1
    assert html.count("c-hollow") == 1
    assert "<td class=\"num\">2 (1 to 3)</td>" in html


def test_an_axis_of_close_values_does_not_begin_at_zero() -> None:
    def lowest_tick(values: list[float]) -> float:
        spots = [Spot((v, v, v), (v, v, v), 0, str(v)) for v in values]
        ticks = re.findall(r'text-anchor="end">([\d.]+)</text>', trade_off(spots, FRAME, ["A"]))
        return min(map(float, ticks))

    assert lowest_tick([0.97, 0.99]) > 0.9
    assert lowest_tick([0.1, 0.9]) == 0


def test_no_points() -> None:
    assert "No SAE here has both numbers" in trade_off([], FRAME, [])
