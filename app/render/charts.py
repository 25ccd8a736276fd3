"""Charts as SVG made on the server: they read without JavaScript and survive a swap.

Every chart is a `<figure class="chart">` with a title, an SVG (`role="img"`), `<title>` hovers on its marks and the
same numbers as a table in `<details>`.  There are no inline styles: colours are classes in `static/css/charts.css`.

The SVG's box is the plot itself; the ticks and names around it overflow into its margins.  Positions along x are
percentages of the box and heights are pixels, so a chart is as wide as its column and its text has one size at all
widths.  A polyline cannot have percentages, so lines are in a nested SVG that is stretched over the box.

    line_chart([Series("FVU", [(tokens, fvu), …])], title="FVU", x_label="tokens")
    histogram([Bar(0, 1, 17), …], Frame("Latents per token", x_label="latents"), markers=[Marker(32, "k = 32")])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import NamedTuple

from markupsafe import Markup

from app.render.axis import Axis, edge_text, tick_text
from app.render.numbers import compact, number
from app.render.zoom import Zoom

Format = Callable[[float], str]
Line = tuple[str, list[tuple[float, float]]]  # label, points that can be drawn
_TOP, _RIGHT, _BOTTOM, _LEFT = 20, 12, 34, 48  # the box's margins in pixels; static/css/charts.css has the same
_NARROW = 260  # pixels of a plot on a narrow screen, for which labels are laid out
_LETTER, _LINE = 7, 14  # width and line height of the charts' letters, in pixels


@dataclass(frozen=True)
class Frame:
    """A chart without its marks: names, size, axes and how its numbers are written.

    `width` is about the number of pixels at which the chart is seen, which decides how many ticks there are; `height`
    is in pixels.  `y_tick` writes the ticks of the y axis, `x_format` and `y_format` what hovers and the table say.
    `y_top` cuts the y axis there: what is higher is marked with its value.  With `log_y` a bin of 1 still shows.
    """

    title: str
    x_label: str = ""
    y_label: str = ""
    width: int = 420
    height: int = 200
    log_x: bool = False
    log_y: bool = False
    x_format: Format = edge_text
    y_format: Format = compact
    y_tick: Format = tick_text
    y_top: float | None = None

    @property
    def base(self) -> float:
        """Return the height of the box, at which the x axis is drawn."""
        return self.height - _TOP - _BOTTOM


@dataclass(frozen=True)
class Series:
    """A named line; `points` are (x, y).  Points that are not finite, or not positive on a log axis, are left out."""

    label: str
    points: Sequence[tuple[float, float]]


class Bar(NamedTuple):
    """One bin of a histogram, from `low` to `high`, holding `n`.

    `kind` is a colour class: "", "alt", "blue", "orange" or "accent".  `note` is added to its hover.  A bar with an
    `href` is a link, and so is its line of the table.
    """

    low: float
    high: float
    n: float
    kind: str = ""
    note: str = ""
    href: str = ""


Outlines = Sequence[tuple[str, Sequence[Bar]]]  # further histograms by name


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot, which leads to `href`; `series` is the place of its name in the legend."""

    x: float
    y: float
    series: int
    label: str
    href: str


@dataclass(frozen=True)
class Marker:
    """A label at `x`, with a dashed vertical line unless it is `bare`."""

    x: float
    label: str
    bare: bool = False


@dataclass(frozen=True)
class Shade:
    """A grey stretch of the x axis with a word at its top, such as the densities called dense."""

    low: float
    high: float
    label: str


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str = "", y_label: str = "", width: int = 420, height: int = 200,
    log_y: bool = False, zero: bool = False, markers: Sequence[Marker] = (), table: bool = True,
    x_format: Format = compact, y_format: Format = lambda y: number(y, 3),
) -> Markup:
    """Draw lines over one x axis.  `zero` makes the y axis begin at 0; `table=False` leaves the table out."""
    frame = Frame(title, x_label, y_label, width, height, log_y=log_y, x_format=x_format, y_format=y_format)
    lines = [(s.label, [(x, y) for x, y in s.points if math.isfinite(y) and (y > 0 or not log_y)]) for s in series]
    lines = [(label, points) for label, points in lines if points]
    if not lines:
        return _figure(frame, "", "", Markup('<p class="muted">No values yet.</p>'))
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    # A line of one value runs through the middle.
    margin = 0 if log_y else 0.05 * (max(ys) - min(ys)) or abs(max(ys)) / 4 or 1
    low = 0.0 if zero and not log_y else min(ys) - margin
    x_axis = Axis(min(xs), max(xs), 0, 100)
    y_axis = Axis(low, max(ys) + margin, frame.base, 0, log_y)
    parts = [_axes(frame, x_axis, y_axis)]
    drawn = []
    for i, (_, points) in enumerate(lines):
        path = " ".join(f"{x_axis(x)},{y_axis(y)}" for x, y in _thinned(points))
        if len(points) == 1:  # a line of one point would be invisible
            path = f"{path} {x_axis(points[0][0]) + 1},{y_axis(points[0][1])}"
        drawn.append(f'<polyline class="c-line c-s{i % 4}" points="{path}"/>')
    parts.append(_stretched(drawn, frame))
    parts.extend(_marker(m, x_axis, frame.base) for m in markers)
    parts.append(_hover_bands(lines, x_axis, frame))
    heads = [x_label or "x", *(label for label, _ in lines)]
    rows = _rows(lines, x_format, y_format) if table else []
    legend = _legend([label for label, _ in lines])
    return _figure(frame, _svg(parts, frame), legend, _table(heads, rows))


def histogram(
    bars: Sequence[Bar], frame: Frame, *, markers: Sequence[Marker] = (), shades: Sequence[Shade] = (),
    outlines: Outlines = (), label: str = "", zoom: Zoom | None = None,
) -> Markup:
    """Draw bars, perhaps with further histograms as named outlines over them (same x and y units).

    `label` names the bars in the legend.  `zoom` adds a form for a range of the x axis.
    """
    if zoom and zoom.low is not None and zoom.high is not None:
        low, high = zoom.low, zoom.high
        near, others = _within(low, high, bars), [(name, _within(low, high, some)) for name, some in outlines]
        if near or any(some for _, some in others):  # otherwise the whole axis
            bars, outlines = near, others
        frame = replace(frame, y_top=None)
    counted = [*bars, *(bar for _, some in outlines for bar in some)]
    if not any(bar.n > 0 for bar in counted):
        return _figure(frame, "", "", Markup('<p class="muted">Nothing was counted.</p>'))
    x_axis = Axis(min(b.low for b in counted), max(b.high for b in counted), 0, 100, frame.log_x)
    y_axis = _count_axis(frame, counted)
    seen = [marker for marker in markers if x_axis.low <= marker.x <= x_axis.high]
    seen += [Marker((bar.low + bar.high) / 2, f"{frame.y_format(bar.n)} ↑", bare=True)
             for bar in counted if bar.n > y_axis.high]
    parts = [_shade(shade, x_axis, frame.base) for shade in shades]
    parts.append(_axes(frame, x_axis, y_axis))
    parts.extend(_bar(bar, x_axis, y_axis, frame) for bar in bars if bar.n > 0)
    parts.append(_stretched(
        [_outline(some, i, x_axis, y_axis, frame.base) for i, (_, some) in enumerate(outlines) if some], frame))
    parts.extend(_marker(m, x_axis, frame.base, level) for m, level in _staggered(seen, x_axis))
    legend = _histogram_legend(label, [name for name, _ in outlines]) if outlines else ""
    heads = [frame.x_label or "from", "to", frame.y_label or "n"]
    rows = [[frame.x_format(b.low), frame.x_format(b.high), frame.y_format(b.n)] for b in bars if b.n > 0]
    span = f' data-low="{x_axis.low:.6g}" data-high="{x_axis.high:.6g}"{" data-log" if frame.log_x else ""}'
    links = [bar.href for bar in bars if bar.n > 0]
    rest = _table(heads, rows, links) + (zoom.form(x_axis.low, x_axis.high) if zoom else Markup(""))
    svg = _svg(parts, frame, span if zoom else "", role="group" if any(links) else "img")
    return _figure(frame, svg, legend, rest)


def scatter(dots: Sequence[Dot], frame: Frame, names: Sequence[str]) -> Markup:
    """Draw points that are links, on axes from 0; `names` are the series of the legend."""
    if not dots:
        return _figure(frame, "", "", Markup('<p class="muted">No values yet.</p>'))
    x_axis = Axis(0, 1.1 * max(dot.x for dot in dots), 0, 100)
    y_axis = Axis(0, 1.1 * max(dot.y for dot in dots), frame.base, 0)
    parts = [_axes(frame, x_axis, y_axis)]
    for dot in dots:
        said = f"{dot.label}: {frame.x_label} {frame.x_format(dot.x)}, {frame.y_label} {frame.y_format(dot.y)}"
        parts.append(
            f'<a href="{escape(dot.href)}" aria-label="{escape(said)}"><circle class="c-dot c-d{dot.series % 4}" r="5"'
            f' cx="{x_axis(dot.x)}%" cy="{y_axis(dot.y)}"><title>{escape(said)}</title></circle></a>')
    rows = [[dot.label, frame.x_format(dot.x), frame.y_format(dot.y)] for dot in dots]
    legend = "".join(f'<span><svg aria-hidden="true" viewBox="0 0 24 8"><circle class="c-dot c-d{i % 4}" cx="12" cy="4"'
                     f' r="4"/></svg>{escape(name)}</span>' for i, name in enumerate(names))
    return _figure(frame, _svg(parts, frame, role="group"), f'<div class="chart-legend">{legend}</div>',
                   _table(["", frame.x_label, frame.y_label], rows))


def _count_axis(frame: Frame, counted: Sequence[Bar]) -> Axis:
    top = frame.y_top or max(bar.n for bar in counted) * (1.3 if frame.log_y else 1.05)
    least = min(bar.n for bar in counted if bar.n > 0)
    return Axis(least / 2 if frame.log_y else 0.0, top, frame.base, 0, frame.log_y)


def _within(low: float, high: float, bars: Sequence[Bar]) -> list[Bar]:
    """Return the bars that overlap a range of the axis."""
    return [bar for bar in bars if bar.high > low and bar.low < high]


def sparkline(values: Sequence[float], *, title: str, width: int = 120, height: int = 24, bars: bool = True) -> Markup:
    """Draw a small chart without text for a row or a card; `title` is for screen readers."""
    finite = [v if math.isfinite(v) else 0.0 for v in values]
    if not finite:
        return Markup("")
    top = max([*finite, 0.0]) or 1.0
    step = width / len(finite)
    if bars:
        marks = "".join(
            f'<rect class="c-bar" x="{i * step:.2f}" y="{height - height * v / top:.2f}"'
            f' width="{step * 0.92:.2f}" height="{max(height * v / top, 0):.2f}"/>'
            for i, v in enumerate(finite) if v > 0)
    else:
        path = " ".join(
            f"{(i + 0.5) * step:.2f},{height - 1 - (height - 2) * v / top:.2f}" for i, v in enumerate(finite))
        marks = f'<polyline class="c-line" points="{path}"/>'
    return Markup(
        f'<svg class="sparkline" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' preserveAspectRatio="none" aria-label="{escape(title)}"><title>{escape(title)}</title>{marks}</svg>')


def _svg(parts: Sequence[str], frame: Frame, attributes: str = "", role: str = "img") -> str:
    name = escape(frame.title or frame.x_label)
    return (f'<svg class="c-plot" role="{role}" height="{frame.base}" aria-label="{name}"{attributes}>'
            f'{"".join(parts)}</svg>')


def _stretched(lines: Sequence[str], frame: Frame) -> str:
    """Return polylines, whose x is in percent, stretched over the box."""
    if not lines:
        return ""
    return (f'<svg class="c-lines" width="100%" height="{frame.base}" viewBox="0 0 100 {frame.base}"'
            f' preserveAspectRatio="none">{"".join(lines)}</svg>')


def _figure(frame: Frame, svg: str, legend: str, rest: Markup) -> Markup:
    unit = f'<span class="muted">{escape(frame.y_label)}</span>' if frame.y_label else ""
    caption = f"<figcaption>{escape(frame.title)} {unit}</figcaption>" if frame.title or unit else ""
    return Markup(f'<figure class="chart">{caption}{legend}{svg}{rest}</figure>')


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], links: Sequence[str] = ()) -> Markup:
    if not rows:
        return Markup("")
    head = "".join(f'<th scope="col" class="num">{escape(h)}</th>' for h in heads)
    # All cells are escaped at once: there may be hundreds.
    cells = escape("\x1e".join(["\x1f".join(row) for row in rows]))
    if any(links):
        lines = (line.partition("\x1f") for line in cells.split("\x1e"))
        cells = "\x1e".join(f'<a href="{escape(href)}">{first}</a>{mark}{rest}' if href else f"{first}{mark}{rest}"
                            for href, (first, mark, rest) in zip(links, lines, strict=True))
    body = cells.replace("\x1f", '</td><td class="num">').replace("\x1e", '</td></tr><tr><td class="num">')
    return Markup(
        '<details><summary>table</summary><div class="table-twin"><table class="data tight">'
        f'<thead><tr>{head}</tr></thead><tbody><tr><td class="num">{body}</td></tr></tbody></table></div></details>')


def _axes(frame: Frame, x_axis: Axis, y_axis: Axis) -> str:
    base, parts = frame.base, []
    for y in y_axis.ticks(4):
        at = y_axis(y)
        parts.append(f'<line class="c-grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="-5" y="{at + 4}" text-anchor="end">{escape(frame.y_tick(y))}</text>')
    for i, x in enumerate(x_ticks := x_axis.ticks(max(2, (frame.width - _LEFT) // 70))):
        at = x_axis(x)
        odd = ' class="c-odd"' if i % 2 and len(x_ticks) > 4 else ""  # narrow charts leave out every second of many
        parts.append(f'<line class="c-axis" x1="{at}%" x2="{at}%" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text{odd} x="{at}%" y="{base + 16}" text-anchor="middle">{escape(tick_text(x))}</text>')
    parts.append(f'<line class="c-axis" x1="0" x2="100%" y1="{base}" y2="{base}"/>')
    if frame.x_label:
        parts.append(f'<text class="c-name" x="100%" y="{base + 30}" text-anchor="end">{escape(frame.x_label)}</text>')
    return "".join(parts)


def _bar(bar: Bar, x_axis: Axis, y_axis: Axis, frame: Frame) -> str:
    left, right, top = x_axis(bar.low), x_axis(bar.high), y_axis(bar.n)
    gap = 0.1 if right - left > 0.5 else 0
    low, high = frame.x_format(bar.low), frame.x_format(bar.high)
    span = low if bar.high - bar.low == 1 else f"{low} to {high}"
    hover = f"{span}: {frame.y_format(bar.n)}{' · ' + bar.note if bar.note else ''}"
    kind = f" {bar.kind}" if bar.kind else ""
    mark = (
        f'<rect class="c-bar{kind}" x="{left}%" y="{min(top, frame.base - 0.5)}"'
        f' width="{max(right - left - gap, 0.1):.2f}%" height="{max(frame.base - top, 0.5):.2f}">'
        f"<title>{escape(hover)}</title></rect>")
    return f'<a href="{escape(bar.href)}" tabindex="-1">{mark}</a>' if bar.href else mark


def _outline(bars: Sequence[Bar], number: int, x_axis: Axis, y_axis: Axis, base: float) -> str:
    points: list[str] = []
    last = None
    for bar in sorted(bars, key=lambda b: b.low):
        left, right, top = x_axis(bar.low), x_axis(bar.high), y_axis(bar.n) if bar.n > 0 else base
        if last is None or left > last + 0.01:  # a gap in the bins goes down to the axis
            points.extend([f"{last},{base}"] if last is not None else [])
            points.append(f"{left},{base}")
        points.extend([f"{left},{top}", f"{right},{top}"])
        last = right
    points.append(f"{last},{base}")
    return f'<polyline class="c-outline c-o{number % 3}" points="{" ".join(points)}"/>'


def _staggered(markers: Sequence[Marker], x_axis: Axis) -> list[tuple[Marker, int]]:
    """Pair markers with the line of text for their label, so that neighbours do not overlap on a narrow screen."""
    placed: list[tuple[Marker, int]] = []
    ends: list[float] = []
    for marker in sorted(markers, key=lambda m: m.x):
        start, end = _label_extent(marker, x_axis)
        level = next((i for i, taken in enumerate(ends) if taken < start), len(ends))
        ends[level:level + 1] = [end]
        placed.append((marker, level))
    return placed


def _label_extent(marker: Marker, x_axis: Axis) -> tuple[float, float]:
    """Return the ends of a label on a narrow screen, in percent: right of its marker, or left of it at the edge."""
    at, length = x_axis(marker.x), 100 * (_LETTER * len(marker.label) + 12) / _NARROW
    return (at, at + length) if at + length <= 100 or at < 50 else (at - length, at)


def _marker(marker: Marker, x_axis: Axis, base: float, level: int = 0) -> str:
    at = x_axis(marker.x)
    left = _label_extent(marker, x_axis)[0] == at
    anchor, shift = ("start", 6) if left else ("end", -6)
    line = "" if marker.bare else f'<line class="c-marker" x1="{at}%" x2="{at}%" y1="-14" y2="{base}"/>'
    return (f'{line}<text class="c-marker-label" x="{at}%" dx="{shift}" y="{_LINE * level - 6}"'
            f' text-anchor="{anchor}">{escape(marker.label)}</text>')


def _shade(shade: Shade, x_axis: Axis, base: float) -> str:
    left, right = x_axis(max(shade.low, x_axis.low)), x_axis(min(shade.high, x_axis.high))
    if right <= left:
        return ""
    return (f'<rect class="c-shade" x="{left}%" y="0" width="{right - left:.2f}%" height="{base}"/>'
            f'<text x="{(left + right) / 2:.2f}%" y="-5" text-anchor="middle">{escape(shade.label)}</text>')


def _thinned(points: Sequence[tuple[float, float]], most: int = 400) -> Sequence[tuple[float, float]]:
    """Return at most about `most` points, the last one among them."""
    step = max(1, math.ceil(len(points) / most))
    return [*points[:-1:step], points[-1]]


def _rows(lines: Sequence[Line], x_format: Format, y_format: Format) -> list[list[str]]:
    values = [dict(_thinned(points, 50)) for _, points in lines]
    xs = sorted({x for value in values for x in value})
    return [[x_format(x), *(y_format(v[x]) if x in v else "" for v in values)] for x in xs]


def _hover_bands(lines: Sequence[Line], x_axis: Axis, frame: Frame) -> str:
    """Return invisible upright bands whose hover names the values at that x."""
    values = [dict(points) for _, points in lines]
    xs = sorted({x for value in values for x in value})
    xs = xs[:: max(1, math.ceil(len(xs) / 120))]
    parts = []
    for i, x in enumerate(xs):
        left = x_axis(x if i == 0 else (xs[i - 1] + x) / 2)
        right = x_axis(x if i == len(xs) - 1 else (x + xs[i + 1]) / 2)
        values_text = ", ".join(
            f"{label} {frame.y_format(v[x])}" for (label, _), v in zip(lines, values, strict=True) if x in v)
        parts.append(
            f'<rect class="c-hit" x="{left}%" y="0" width="{max(right - left, 0.2):.2f}%" height="{frame.base}">'
            f"<title>{escape(frame.x_format(x))}: {escape(values_text)}</title></rect>")
    return "".join(parts)


def _legend(labels: Sequence[str]) -> str:
    if len(labels) < 2:
        return ""
    items = "".join(
        '<span><svg aria-hidden="true" viewBox="0 0 24 8">'
        f'<line class="c-line c-s{i % 4}" x1="0" x2="24" y1="4" y2="4"/></svg>{escape(label)}</span>'
        for i, label in enumerate(labels))
    return f'<div class="chart-legend">{items}</div>'


def _histogram_legend(label: str, outlines: Sequence[str]) -> str:
    filled = '<svg aria-hidden="true" viewBox="0 0 24 8"><rect class="c-bar" width="24" height="8"/></svg>'
    outlined = "".join(
        f'<span><svg aria-hidden="true" viewBox="0 0 24 8"><rect class="c-outline c-o{i % 3}" x="1" y="1" width="22" '
        f'height="6"/></svg>{escape(name)}</span>' for i, name in enumerate(outlines))
    return f'<div class="chart-legend"><span>{filled}{escape(label)}</span>{outlined}</div>'
