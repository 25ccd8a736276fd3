"""Tests of charts: well-formed, without inline style, and with marks at the positions of the numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from app.render.axis import edge_text, tick_text
from app.render.charts import Bar, Dot, Frame, Marker, Series, Shade, histogram, line_chart, scatter, sparkline
from app.render.zoom import Zoom


def parse(markup: str) -> ElementTree.Element:
    assert "style=" not in markup
    assert "nan" not in markup
    return ElementTree.fromstring(markup)


def test_histogram_bars_are_proportional() -> None:
    tree = parse(histogram([Bar(0, 1, 10), Bar(1, 2, 5), Bar(2, 3, 0)], Frame("L0")))
    heights = [float(r.get("height", "")) for r in tree.iter("rect") if "c-bar" in (r.get("class") or "")]
    assert len(heights) == 2
    assert abs(heights[0] / heights[1] - 2) < 0.02


def test_a_zoom_leaves_out_what_is_elsewhere() -> None:
    """An outline outside the range does not widen the axis; a range without anything shows the whole axis."""
    bars, outlines = [Bar(0, 1, 3), Bar(5, 6, 10)], [("other", [Bar(90, 91, 7)])]

    def high(low: float, high: float) -> str:
        markup = histogram(bars, Frame("L0"), outlines=outlines, zoom=Zoom("l0", "/", low=low, high=high))
        return re.findall(r'data-high="([^"]+)"', markup)[0]

    assert high(4, 20) == "6"
    assert high(80, 99) == "91"
    assert high(30, 40) == "91"


def test_histogram_with_everything() -> None:
    markup = histogram(
        [Bar(0.1, 1, 10), Bar(1, 10, 1000, "alt", "odd")], Frame("<b>", log_x=True, log_y=True),
        markers=[Marker(2, "k"), Marker(2.1, "BOS")], shades=[Shade(5, 10, "dense")],
        outlines=[("TopK", [Bar(1, 10, 3)])], label="BatchTopK")
    tree = parse(markup)
    assert "&lt;b&gt;" in markup
    assert len([n for n in tree.iter("polyline") if n.get("class") == "c-outline c-o0"]) == 1
    labels = [n for n in tree.iter("text") if n.get("class") == "c-marker-label"]
    assert {n.text for n in labels} == {"k", "BOS"}
    assert len({n.get("y") for n in labels}) == 2, "labels of close markers are on lines of their own"
    assert "<summary>table</summary>" in markup


def test_what_the_top_of_the_chart_cuts_is_marked_with_its_value() -> None:
    markup = histogram(
        [Bar(0, 1, 0.04), Bar(1, 2, 0.03)], Frame("L0", y_top=0.05, y_format=lambda share: f"{share:.0%}"),
        markers=[Marker(1.5, "k = 1")], outlines=[("TopK", [Bar(1, 2, 1.0)])], label="BatchTopK")
    labels = {n.text: n.get("y") for n in parse(markup).iter("text") if n.get("class") == "c-marker-label"}
    assert set(labels) == {"k = 1", "100% ↑"}
    assert len(set(labels.values())) == 2, "one is under the other"


def test_dots_are_links_that_stand_where_their_values_say() -> None:
    dots = [Dot(10, 0.2, 0, "<a>", "/demo/a"), Dot(20, 0.1, 1, "b", "/demo/b")]
    markup = scatter(dots, Frame("FVU", x_label="L0", y_label="FVU"), ["TopK", "ReLU"])
    tree = parse(markup)
    marks = {n.get("href"): n.find("circle") for n in tree.iter("a")}
    assert set(marks) == {"/demo/a", "/demo/b"}
    first, second = marks["/demo/a"], marks["/demo/b"]
    assert first is not None
    assert second is not None
    assert abs(float(second.get("cx", "").rstrip("%")) - 2 * float(first.get("cx", "").rstrip("%"))) < 0.02
    assert float(second.get("cy", "")) > float(first.get("cy", ""))
    assert "&lt;a&gt;: L0 10, FVU 0.2" in markup
    assert "TopK" in markup
    assert "No values yet" in scatter([], Frame("FVU"), [])


def test_text_has_one_size_at_all_widths() -> None:
    """Check that only lines are in a `viewBox`, because text in a scaled SVG would change its size."""
    for markup in (histogram([Bar(0, 1, 10)], Frame("L0", x_label="latents")),
                   line_chart([Series("a", [(0, 1.0), (2, 0.1)])], title="loss")):
        tree = parse(markup)
        assert not [n for n in tree.iter("svg") if n.get("viewBox") and list(n.iter("text"))]
        assert list(tree.iter("text"))


def test_negative_ticks_have_a_minus_sign() -> None:
    for value in (-3.0, -0.25, -1e-5, -12_000.0):
        assert tick_text(value).startswith("−")
        assert edge_text(value).startswith("−")
    assert edge_text(0.547059) == "0.547"
    assert edge_text(1234.0) == "1,234"


def test_line_chart_leaves_out_what_cannot_be_drawn() -> None:
    series = [Series("a", [(0, 1.0), (1, float("nan")), (2, 0.1)]), Series("b", [(0, 0.0), (2, 10.0)])]
    tree = parse(line_chart(series, title="loss", log_y=True))
    lines = [n.get("points", "") for n in tree.iter("polyline")]
    assert [len(line.split()) for line in lines] == [2, 2]


@given(st.floats(-1e9, 1e9))
def test_a_line_of_one_value_lies_inside_the_plot(value: float) -> None:
    tree = parse(line_chart([Series("L0", [(0, value), (1, value)])], title="L0"))
    line = next(n for n in tree.iter("polyline")).get("points", "")
    frame = [float(n.get("y1", "")) for n in tree.iter("line") if n.get("class") == "c-axis"]
    assert all(20 < float(point.split(",")[1]) < max(frame) - 20 for point in line.split())


def test_empty_charts_say_so() -> None:
    assert "No values yet" in line_chart([Series("a", [])], title="loss")
    assert "Nothing was counted" in histogram([Bar(0, 1, 0)], Frame("L0"))
    assert sparkline([], title="x") == ""


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=40))
def test_sparkline_never_leaves_its_box(values: list[float]) -> None:
    tree = parse(sparkline(values, title="x", height=24))
    for bar in tree.iter("rect"):
        assert float(bar.get("y", "")) >= -0.01
        assert float(bar.get("height", "")) <= 24.01


def test_heat_classes_have_enough_contrast() -> None:
    from app.web.templating import STATIC

    css = (STATIC / "css" / "heat.css").read_text()
    rules = re.findall(
        r"\.([abo]\d+) \{ background: light-dark\((#\w+), (#\w+)\); color: light-dark\((#\w+), (#\w+)\)", css)
    assert len(rules) == 16 + 8 + 8
    for name, light, dark, light_ink, dark_ink in rules:
        assert contrast(light, light_ink) >= 4.5, name
        assert contrast(dark, dark_ink) >= 4.5, name


def test_the_frame_has_enough_contrast() -> None:
    from app.web.templating import STATIC

    css = (STATIC / "css" / "base.css").read_text()
    colour = {m[0]: (m[1], m[2]) for m in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)}
    for ink in ("ink", "muted", "accent", "blue", "orange", "error"):
        for ground in ("paper", "card", "well"):
            for theme in (0, 1):
                assert contrast(colour[ink][theme], colour[ground][theme]) >= 4.5, (ink, ground, theme)
    assert all(contrast(colour["accent"][t], colour["on-accent"][t]) >= 4.5 for t in (0, 1))


def contrast(one: str, other: str) -> float:
    """Return the WCAG 2 contrast ratio of two #rrggbb colours."""
    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
