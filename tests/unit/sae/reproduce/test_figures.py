"""Tests of the drawings: places of points, intervals, bars, legends, ticks."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from sae.reproduce.figures import Figure, Line, legend, round_ticks, svg
from sae.reproduce.results import Spread


def test_points_are_drawn_at_their_place_with_their_intervals() -> None:
    line = Line("a", ((10.0, Spread(1.0, 3, 0.1, 0.5, 1.5)), (1000.0, Spread(3.0, 3, 0.1, 2.5, 3.5))))
    drawn = ElementTree.fromstring(svg(Figure("T <1>", "", "x", "y", (line,), log_x=True)))
    assert drawn.attrib["aria-label"] == "T <1>"
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawn.iter("circle")]
    assert dots[0][0] < dots[1][0]
    assert dots[0][1] > dots[1][1]  # y goes downwards
    spans = [(float(one.attrib["y1"]), float(one.attrib["y2"])) for one in drawn.iter("line")
             if one.attrib["class"] == "s0 line"]
    assert [a > cy > b for (a, b), (_, cy) in zip(spans, dots, strict=True)] == [True, True]
    assert abs(spans[0][0] - spans[0][1]) == pytest.approx(abs(spans[1][0] - spans[1][1]), abs=0.2)


def test_bars_stand_on_zero_and_are_as_high_as_their_share() -> None:
    line = Line("a", tuple((float(x), Spread(y, 1)) for x, y in enumerate((0.0, 2.0, 4.0))))
    bars = list(ElementTree.fromstring(svg(Figure("T", "", "x", "y", (line,), bars=True, marks=((1.5, "BOS"),))))
                .iter("rect"))
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights[0] == 0
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.2)
    assert {round(float(bar.attrib["y"]) + float(bar.attrib["height"])) for bar in bars} == {300 - 46}


def test_a_legend_names_the_lines_of_a_figure_with_several() -> None:
    one, other = (Line(name, ((1.0, Spread(1.0, 1)),), dashed=name == "b <c>") for name in ("a", "b <c>"))
    assert legend(Figure("", "", "", "", (one,))) == ""
    both = legend(Figure("", "", "", "", (one, other)))
    assert "b &lt;c&gt;" in both
    assert both.count("stroke-dasharray") == 1
    with pytest.raises(ValueError, match="no points"):
        svg(Figure("Empty", "", "", "", (Line("a", ()),)))


@pytest.mark.parametrize(("low", "high", "ticks"), [(0, 10, [0, 2, 4, 6, 8, 10]), (0.12, 0.31, [0.15, 0.2, 0.25, 0.3])])
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)
