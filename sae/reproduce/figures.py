"""Figures as data and as SVG: lines with intervals over a linear or logarithmic axis, and histograms.

The drawings take their colours from the page's style sheet, so that they follow its light and dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from sae.reproduce.results import Spread

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 46
_SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")


@dataclass(frozen=True)
class Line:
    """A named series of points, each a mean over seeds with its interval."""

    name: str
    points: tuple[tuple[float, Spread], ...]
    dashed: bool = False
    joined: bool = True
    marked: bool = True
    colour: int | None = None  # None: its place among the lines


@dataclass(frozen=True)
class Figure:
    """One plot."""

    title: str
    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_x: bool = False
    log_y: bool = False
    bars: bool = False  # draw the first line's points as bars
    marks: tuple[tuple[float, str], ...] = field(default=())  # labelled vertical lines


def svg(figure: Figure) -> str:
    """Draw a figure.  Raises ValueError if it has no points."""
    lines = [line for line in figure.lines if line.points]
    xs = [x for line in lines for x, _ in line.points] + [x for x, _ in figure.marks]
    ys = [y for line in lines for _, s in line.points for y in (s.low, s.mean, s.high) if y is not None]
    if not ys:
        raise ValueError(f"{figure.title}: there are no points to draw")
    x_axis = _Axis(min(xs), max(xs), figure.log_x, _LEFT, _WIDTH - _RIGHT)
    low = 0.0 if figure.bars else min(ys)
    if figure.log_y:  # an interval may reach below 0
        low = max(low, min(s.mean for line in lines for _, s in line.points) / 3)
    y_axis = _Axis(low, max(ys), figure.log_y, _HEIGHT - _BOTTOM, _TOP, padded=not figure.bars)
    parts = [_grid(figure, x_axis, y_axis)]
    for number, line in enumerate(figure.lines):
        colour = number if line.colour is None else line.colour
        parts.append(_bars(line, x_axis, y_axis) if figure.bars else _series(line, colour, x_axis, y_axis))
    for x, label in figure.marks:
        at = x_axis.at(x)
        near_end = at > _WIDTH * 0.7
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
                     f'<text x="{at + (-4 if near_end else 4):.1f}" y="{_TOP + 10}" '
                     f'text-anchor="{"end" if near_end else "start"}">{escape(label)}</text>')
    return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(figure.title, quote=True)}">'
            f'{"".join(parts)}</svg>')


def legend(figure: Figure) -> str:
    """Return the names of a figure's lines with their markers, as HTML; empty for a single line."""
    if len(figure.lines) < 2:
        return ""
    items = []
    for number, line in enumerate(figure.lines):
        colour = number if line.colour is None else line.colour
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        path = f'<line class="s{colour} line" x1="0" x2="28" y1="7" y2="7"{dash}/>' if line.joined else ""
        marker = _marker(colour, 14, 7) if line.marked else ""
        items.append(f'<span><svg class="key" viewBox="0 0 28 14" aria-hidden="true">{path}{marker}</svg> '
                     f"{escape(line.name)}</span>")
    return f'<p class="legend">{"".join(items)}</p>'


class _Axis:
    """The map from values to pixels, with round ticks."""

    def __init__(self, low: float, high: float, log: bool, start: float, end: float, padded: bool = True) -> None:
        self.log, self.start, self.end = log, start, end
        a, b = (math.log(low), math.log(high)) if log else (low, high)
        room = (0.06 * (b - a) or 0.5 * abs(b) or 1.0) if padded else 0.0
        self.a, self.b = a - room, (b + room if padded else b * 1.05 or 1.0)

    def at(self, value: float) -> float:
        v = math.log(max(value, 1e-300)) if self.log else value
        share = min(1.0, max(0.0, (v - self.a) / (self.b - self.a)))
        return self.start + (self.end - self.start) * share

    def ticks(self) -> list[float]:
        if not self.log:
            return round_ticks(self.a, self.b)
        low, high = math.exp(self.a), math.exp(self.b)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            found = [m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
                     for m in steps if low <= m * 10.0**e <= high]
            if len(found) >= 3:
                return found
        return round_ticks(low, high)


def round_ticks(low: float, high: float) -> list[float]:
    """Return about five multiples of 1, 2 or 5 times a power of ten between two values."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _grid(figure: Figure, x_axis: _Axis, y_axis: _Axis) -> str:
    xs = sorted({x for line in figure.lines for x, _ in line.points})
    own = figure.log_x and len(xs) <= 6 and all(abs(x - round(x)) < 0.3 for x in xs)
    parts = []
    for x in xs if own else x_axis.ticks():
        at = x_axis.at(x)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
                     f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(x)}</text>')
    for y in y_axis.ticks():
        at = y_axis.at(y)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
                     f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return "".join(parts) + (
        f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f'{escape(figure.x_label)}</text><text class="label" transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escape(figure.y_label)}</text>')


def _number(value: float) -> str:
    return f"{round(value):,}" if abs(value) >= 100 else f"{value:.3g}"


def _series(line: Line, number: int, x_axis: _Axis, y_axis: _Axis) -> str:
    points = [(x_axis.at(x), y_axis.at(s.mean), s) for x, s in sorted(line.points, key=lambda point: point[0])]
    parts = []
    if line.joined and len(points) > 1:
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline class="s{number} line" points="{path}"{dash}/>')
    for x, y, s in points:
        if s.low is not None and s.high is not None:
            parts.append(f'<line class="s{number} line" x1="{x:.1f}" x2="{x:.1f}" y1="{y_axis.at(s.low):.1f}" '
                         f'y2="{y_axis.at(s.high):.1f}"/>')
        if line.marked:
            parts.append(_marker(number, x, y))
    return "".join(parts)


def _marker(number: int, x: float, y: float) -> str:
    shape = _SHAPES[number % len(_SHAPES)]
    style = f'class="s{number} dot"'
    if shape in ("circle", "ring"):
        hollow = " hollow" if shape == "ring" else ""
        return f'<circle class="s{number} dot{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    if shape == "square":
        return f'<rect {style} x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
    corners: Sequence[tuple[float, float]] = {
        "triangle": ((0, -5), (4.5, 3.5), (-4.5, 3.5)), "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
        "cross": ((-4, -1.5), (4, -1.5), (4, 1.5), (-4, 1.5))}[shape]
    return f'<polygon {style} points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}"/>'


def _bars(line: Line, x_axis: _Axis, y_axis: _Axis) -> str:
    width = max(1.0, (x_axis.at(1) - x_axis.at(0)) - 0.5)
    base = y_axis.at(0)
    return "".join(
        f'<rect class="s0 bar" x="{x_axis.at(x) - width / 2:.1f}" y="{y_axis.at(s.mean):.1f}" width="{width:.1f}" '
        f'height="{base - y_axis.at(s.mean):.1f}"/>' for x, s in line.points)
