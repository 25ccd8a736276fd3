"""Charts as SVG made on the server: they read without JavaScript and survive a swap.

Every chart is a `<figure class="chart">` with a title, an SVG (`role="img"`), `<title>` hovers
on its marks and the same numbers as a table in `<details>`.  No inline styles: colours are
classes in `static/css/charts.css`.  Widths are in the SVG's own units; give about the number
of pixels at which the chart will be seen, so that its 11-unit text is 11 pixels.

    line_chart([Series("FVU", [(tokens, fvu), …])], title="FVU", x_label="tokens")
    histogram([Bar(0, 1, 17), …], title="Latents per token", x_label="latents", markers=[Marker(32, "k = 32")])
    sparkline([3, 5, 4], title="latents per token")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import NamedTuple

from markupsafe import Markup

from app.render.numbers import compact, number
from app.render.zoom import Zoom

Format = Callable[[float], str]
Line = tuple[str, list[tuple[float, float]]]  # label, points that can be drawn
_TOP, _RIGHT, _BOTTOM, _LEFT = 20, 12, 34, 48
_MEDIUM, _LARGE = 480, 700  # widths from which letters grow on narrow screens (static/css/charts.css)


@dataclass(frozen=True)
class Series:
    """A named line; `points` are (x, y).  Points that are not finite, or not positive on a log axis, are left out."""

    label: str
    points: Sequence[tuple[float, float]]


class Bar(NamedTuple):
    """One bin of a histogram, from `low` to `high`, holding `n`.

    `kind` is a colour class: "", "alt", "blue", "orange" or "accent".  `note` is added to its hover.
    """

    low: float
    high: float
    n: float
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class Marker:
    """A dashed vertical line at `x` with a word beside it."""

    x: float
    label: str


@dataclass(frozen=True)
class Shade:
    """A grey stretch of the x axis with a word at its top, such as the densities called dense."""

    low: float
    high: float
    label: str


class Axis:
    """Maps values to pixels, linearly or by log10, and knows its ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        if log:
            low = low if low > 0 else 1e-12
            high = high if high > low else low * 10
        elif high - low <= 1e-9 * abs(low):  # one value, or too close for steps between
            high = low + (abs(low) or 1)
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log
        self._length = math.log(high / low) if log else high - low

    def __call__(self, value: float) -> float:
        far = math.log(max(value, self.low) / self.low) if self.log else value - self.low
        return round(self.start + min(far / self._length, 1.0) * (self.end - self.start), 2)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the axis: powers of ten on a long log axis, else steps of 1, 2 or 5."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last - first >= 2:
                return [10.0**e for e in range(first, last + 1, max(1, math.ceil((last - first + 1) / wanted)))]
            marks = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
            inside = [m for m in marks if self.low * 0.999999 <= m <= self.high * 1.000001]
            return inside or [self.low, self.high]
        raw = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step_size = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first_tick = math.ceil(self.low / step_size - 1e-9)
        last_tick = math.floor(self.high / step_size + 1e-9)
        return [i * step_size for i in range(first_tick, last_tick + 1)]


@lru_cache(maxsize=4096)  # all latents of a build share the bins of their histograms
def tick_text(value: float) -> str:
    """A tick's label: compact from 10,000, powers of ten below 1e-3, else as few digits as needed."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return compact(value)
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.6g}"


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str = "", y_label: str = "", width: int = 420, height: int = 200,
    log_y: bool = False, zero: bool = False, markers: Sequence[Marker] = (), table: bool = True,
    x_format: Format = compact, y_format: Format = lambda y: number(y, 3),
) -> Markup:
    """Lines over one x axis.  `zero` makes the y axis begin at 0; `table=False` leaves the table twin out."""
    lines = [(s.label, [(x, y) for x, y in s.points if math.isfinite(y) and (y > 0 or not log_y)]) for s in series]
    lines = [(label, points) for label, points in lines if points]
    if not lines:
        return _figure(title, y_label, width, "", "", Markup('<p class="muted">No values yet.</p>'))
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    # A line of one value runs through the middle.
    margin = 0 if log_y else 0.05 * (max(ys) - min(ys)) or abs(max(ys)) / 4 or 1
    low = 0.0 if zero and not log_y else min(ys) - margin
    x_axis = Axis(min(xs), max(xs), _LEFT, width - _RIGHT)
    y_axis = Axis(low, max(ys) + margin, height - _BOTTOM, _TOP, log_y)
    parts = [_axes(x_axis, y_axis, width, height, x_label)]
    for i, (_, points) in enumerate(lines):
        path = " ".join(f"{x_axis(x)},{y_axis(y)}" for x, y in _thinned(points))
        if len(points) == 1:  # a line of one point would be invisible
            path = f"{path} {x_axis(points[0][0]) + 3},{y_axis(points[0][1])}"
        parts.append(f'<polyline class="c-line c-s{i % 4}" points="{path}"/>')
    base = height - _BOTTOM
    parts.extend(_marker(m, x_axis, base) for m in markers)
    parts.append(_hover_bands(lines, x_axis, base, x_format, y_format))
    heads = [x_label or "x", *(label for label, _ in lines)]
    rows = _rows(lines, x_format, y_format) if table else []
    legend = _legend([label for label, _ in lines])
    return _figure(title, y_label, width, _svg(parts, width, height, title), legend, _table(heads, rows))


def histogram(
    bars: Sequence[Bar], *, title: str, x_label: str = "", y_label: str = "", width: int = 420, height: int = 200,
    log_x: bool = False, log_y: bool = False, markers: Sequence[Marker] = (), shades: Sequence[Shade] = (),
    outlines: Sequence[tuple[str, Sequence[Bar]]] = (), label: str = "", table: bool = True,
    x_format: Format = tick_text, y_format: Format = compact, tick_format: Format | None = None,
    y_top: float | None = None, zoom: Zoom | None = None,
) -> Markup:
    """Bars, perhaps with further histograms as named outlines over them (same x and y units).

    `y_top` cuts the y axis there; what is higher runs out at the top.  `tick_format` writes the
    y axis' ticks.  With `log_y` a bin of 1 still shows: the axis begins at 0.5 (or below the least positive value).
    With `zoom` a stretch of the x axis can be asked for.
    """
    if zoom:
        bars, outlines = _within(zoom, bars), [(name, _within(zoom, some)) for name, some in outlines]
        y_top = y_top if zoom.low is None else None
    counted = [*bars, *(bar for _, some in outlines for bar in some)]
    if not any(bar.n > 0 for bar in counted):
        return _figure(title, y_label, width, "", "", Markup('<p class="muted">Nothing was counted.</p>'))
    top = max(bar.n for bar in counted)
    least = min(bar.n for bar in counted if bar.n > 0)
    x_axis = Axis(min(b.low for b in counted), max(b.high for b in counted), _LEFT, width - _RIGHT, log_x)
    markers = [marker for marker in markers if x_axis.low <= marker.x <= x_axis.high]
    top = y_top or top * (1.3 if log_y else 1.05)
    y_axis = Axis(least / 2 if log_y else 0.0, top, height - _BOTTOM, _TOP, log_y)
    parts = [_shade(shade, x_axis, height) for shade in shades]
    parts.append(_axes(x_axis, y_axis, width, height, x_label, tick_format or tick_text))
    parts.extend(_bar(bar, x_axis, y_axis, height - _BOTTOM, x_format, y_format) for bar in bars if bar.n > 0)
    parts.extend(_outline(some, i, x_axis, y_axis, height - _BOTTOM) for i, (_, some) in enumerate(outlines) if some)
    parts.extend(_marker(m, x_axis, height - _BOTTOM, level) for m, level in _staggered(markers, x_axis))
    legend = _histogram_legend(label, [name for name, _ in outlines]) if outlines else ""
    heads = [x_label or "from", "to", y_label or "n"]
    rows = [[x_format(b.low), x_format(b.high), y_format(b.n)] for b in bars if b.n > 0] if table else []
    span = f' data-low="{x_axis.low:.6g}" data-high="{x_axis.high:.6g}" data-from="{x_axis.start / width:.4f}"' \
           f' data-to="{x_axis.end / width:.4f}"{" data-log" if log_x else ""}' if zoom else ""
    rest = _table(heads, rows) + (zoom.form(x_axis.low, x_axis.high) if zoom else Markup(""))
    return _figure(title, y_label, width, _svg(parts, width, height, title or x_label, span), legend, rest)


def _within(zoom: Zoom, bars: Sequence[Bar]) -> list[Bar]:
    """Return the bars that touch the zoomed stretch; all of them where none does."""
    if zoom.low is None or zoom.high is None:
        return list(bars)
    return [bar for bar in bars if bar.high > zoom.low and bar.low < zoom.high] or list(bars)


def sparkline(values: Sequence[float], *, title: str, width: int = 120, height: int = 24, bars: bool = True) -> Markup:
    """A small wordless chart for a row or a card; `title` is what a screen reader says."""
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


def _svg(parts: Sequence[str], width: int, height: int, title: str, attributes: str = "") -> str:
    return (f'<svg role="img" viewBox="0 0 {width} {height}" aria-label="{escape(title)}"{attributes}>'
            f'{"".join(parts)}</svg>')


def _figure(title: str, y_label: str, width: int, svg: str, legend: str, rest: Markup) -> Markup:
    said = f'<span class="muted">{escape(y_label)}</span>' if y_label else ""
    caption = f"<figcaption>{escape(title)} {said}</figcaption>" if title or said else ""
    size = " c-large" if width >= _LARGE else " c-medium" if width >= _MEDIUM else ""  # text size on narrow screens
    return Markup(f'<figure class="chart{size}">{caption}{legend}{svg}{rest}</figure>')


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    if not rows:
        return Markup("")
    head = "".join(f'<th scope="col" class="num">{escape(h)}</th>' for h in heads)
    # All cells are escaped at once: there may be hundreds.
    cells = escape("\x1e".join(["\x1f".join(row) for row in rows]))
    body = cells.replace("\x1f", '</td><td class="num">').replace("\x1e", '</td></tr><tr><td class="num">')
    return Markup(
        '<details><summary>numbers</summary><div class="table-twin"><table class="data tight">'
        f'<thead><tr>{head}</tr></thead><tbody><tr><td class="num">{body}</td></tr></tbody></table></div></details>')


def _axes(x_axis: Axis, y_axis: Axis, width: int, height: int, x_label: str, y_tick: Format = tick_text) -> str:
    base, parts = height - _BOTTOM, []
    for y in y_axis.ticks(4):
        at = y_axis(y)
        parts.append(f'<line class="c-grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 4}" text-anchor="end">{escape(y_tick(y))}</text>')
    for x in x_axis.ticks(max(2, (width - _LEFT) // 70)):
        at = x_axis(x)
        parts.append(f'<line class="c-axis" x1="{at}" x2="{at}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text x="{at}" y="{base + 16}" text-anchor="middle">{escape(tick_text(x))}</text>')
    parts.append(f'<line class="c-axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{base}" y2="{base}"/>')
    if x_label:
        parts.append(
            f'<text class="c-name" x="{width - _RIGHT}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>')
    return "".join(parts)


def _bar(bar: Bar, x_axis: Axis, y_axis: Axis, base: float, x_format: Format, y_format: Format) -> str:
    left, right, top = x_axis(bar.low), x_axis(bar.high), y_axis(bar.n)
    gap = 0.6 if right - left > 3 else 0
    span = x_format(bar.low) if bar.high - bar.low == 1 else f"{x_format(bar.low)} to {x_format(bar.high)}"
    hover = f"{span}: {y_format(bar.n)}{' · ' + bar.note if bar.note else ''}"
    kind = f" {bar.kind}" if bar.kind else ""
    return (
        f'<rect class="c-bar{kind}" x="{left}" y="{min(top, base - 0.5)}" width="{max(right - left - gap, 0.5):.2f}"'
        f' height="{max(base - top, 0.5):.2f}"><title>{escape(hover)}</title></rect>')


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
    """Markers with the line of text their label goes on, so that neighbours do not overlap."""
    placed: list[tuple[Marker, int]] = []
    ends: list[float] = []
    for marker in sorted(markers, key=lambda m: m.x):
        start, end = _label_extent(marker, x_axis)
        level = next((i for i, taken in enumerate(ends) if taken < start), len(ends))
        ends[level:level + 1] = [end]
        placed.append((marker, level))
    return placed


def _label_extent(marker: Marker, x_axis: Axis) -> tuple[float, float]:
    width = x_axis.end + _RIGHT
    at, length = x_axis(marker.x), _letter(width) * len(marker.label) + 8
    return (at, at + length) if at + length <= width else (at - length, at)


def _letter(width: float) -> float:
    """Room for one letter of a marker's name: narrow screens shrink the chart, so there letters are larger."""
    return 14 if width >= _LARGE else 10 if width >= _MEDIUM else 8


def _marker(marker: Marker, x_axis: Axis, base: float, level: int = 0) -> str:
    at = x_axis(marker.x)
    left = _label_extent(marker, x_axis)[0] == at
    x, anchor = (at + 4, "start") if left else (at - 4, "end")
    line = 1.65 * _letter(x_axis.end + _RIGHT)
    return (
        f'<line class="c-marker" x1="{at}" x2="{at}" y1="{_TOP - 14}" y2="{base}"/>'
        f'<text class="c-marker-label" x="{x}" y="{_TOP - 6 + line * level}" text-anchor="{anchor}">'
        f"{escape(marker.label)}</text>")


def _shade(shade: Shade, x_axis: Axis, height: int) -> str:
    left, right = x_axis(max(shade.low, x_axis.low)), x_axis(min(shade.high, x_axis.high))
    if right <= left:
        return ""
    return (
        f'<rect class="c-shade" x="{left}" y="{_TOP}" width="{right - left:.2f}" height="{height - _BOTTOM - _TOP}"/>'
        f'<text x="{(left + right) / 2:.2f}" y="{_TOP - 5}" text-anchor="middle">{escape(shade.label)}</text>')


def _thinned(points: Sequence[tuple[float, float]], most: int = 400) -> Sequence[tuple[float, float]]:
    """At most about `most` points, the last one among them."""
    step = max(1, math.ceil(len(points) / most))
    return [*points[:-1:step], points[-1]]


def _rows(lines: Sequence[Line], x_format: Format, y_format: Format) -> list[list[str]]:
    values = [dict(_thinned(points, 50)) for _, points in lines]
    xs = sorted({x for value in values for x in value})
    return [[x_format(x), *(y_format(v[x]) if x in v else "" for v in values)] for x in xs]


def _hover_bands(lines: Sequence[Line], x_axis: Axis, base: float, x_format: Format, y_format: Format) -> str:
    """Invisible upright bands whose hover names the values at that x."""
    values = [dict(points) for _, points in lines]
    xs = sorted({x for value in values for x in value})
    xs = xs[:: max(1, math.ceil(len(xs) / 120))]
    parts = []
    for i, x in enumerate(xs):
        left = x_axis(x if i == 0 else (xs[i - 1] + x) / 2)
        right = x_axis(x if i == len(xs) - 1 else (x + xs[i + 1]) / 2)
        said = ", ".join(f"{label} {y_format(v[x])}" for (label, _), v in zip(lines, values, strict=True) if x in v)
        parts.append(
            f'<rect class="c-hit" x="{left}" y="{_TOP}" width="{max(right - left, 1):.2f}" height="{base - _TOP}">'
            f"<title>{escape(x_format(x))}: {escape(said)}</title></rect>")
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
