"""A scatter plot of two measures: a point for each SAE with its intervals, and the Pareto front of each series.

Points are links.  Like all charts it is complete without JavaScript, and has its numbers as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from markupsafe import Markup

from app.render.axis import Axis
from app.render.charts import Format, Frame, _axes, _figure, _stretched, _svg, _table

SERIES = 8  # colours; further series repeat them


@dataclass(frozen=True)
class Spot:
    """A point with its intervals, which leads to `href` unless that is empty.  It is `hollow` if it was published."""

    x: tuple[float, float, float]  # low, value, high
    y: tuple[float, float, float]
    series: int
    label: str
    href: str = ""
    hollow: bool = False


def trade_off(
    spots: Sequence[Spot], frame: Frame, names: Sequence[str], fronts: Sequence[tuple[int, Sequence[Spot]]] = (),
) -> Markup:
    """Draw the points; `names` are the series of the legend, `fronts` the points of each series' front in order."""
    if not spots:
        return _figure(frame, "", "", Markup('<p class="muted">No SAE here has both numbers.</p>'))
    x_axis = _axis([spot.x for spot in spots], 0, 100)
    y_axis = _axis([spot.y for spot in spots], frame.base, 0)
    parts = [_axes(frame, x_axis, y_axis)]
    lines = [f'<polyline class="c-front c-t{series % SERIES}" points="{_path(front, x_axis, y_axis)}"/>'
             for series, front in fronts if len(front) > 1]
    parts.append(_stretched(lines, frame))
    parts += [_whiskers(spot, x_axis, y_axis) for spot in spots]
    parts += [_mark(spot, frame, x_axis, y_axis) for spot in spots]
    rows = [[spot.label, names[spot.series], _span(spot.x, frame.x_format), _span(spot.y, frame.y_format)]
            for spot in spots]
    legend = "".join(
        f'<span><svg aria-hidden="true" viewBox="0 0 24 8"><circle class="c-dot c-t{i % SERIES}" cx="12" cy="4" '
        f'r="4"/></svg>{escape(name)}</span>' for i, name in enumerate(names))
    titled = replace(frame, y_label="")  # the title names both measures
    return _figure(titled, _svg(parts, frame, role="group"), f'<div class="chart-legend">{legend}</div>',
                   _table(["", "series", frame.x_label, frame.y_label], rows))


def _axis(spans: Sequence[tuple[float, float, float]], start: float, end: float) -> Axis:
    """Return an axis from 0, or from near the smallest value where all are far from 0."""
    low, high = min(span[0] for span in spans), max(span[2] for span in spans)
    margin = 0.06 * (high - low) or abs(high) / 10 or 1
    return Axis(0.0 if 0 <= low <= 0.6 * high else low - margin, high + margin, start, end)


def _path(front: Sequence[Spot], x_axis: Axis, y_axis: Axis) -> str:
    return " ".join(f"{x_axis(spot.x[1])},{y_axis(spot.y[1])}" for spot in front)


def _whiskers(spot: Spot, x_axis: Axis, y_axis: Axis) -> str:
    kind = f"c-whisker c-t{spot.series % SERIES}"
    parts = []
    if spot.x[0] < spot.x[2]:
        at = y_axis(spot.y[1])
        parts.append(f'<line class="{kind}" x1="{x_axis(spot.x[0])}%" x2="{x_axis(spot.x[2])}%" y1="{at}" y2="{at}"/>')
    if spot.y[0] < spot.y[2]:
        at = x_axis(spot.x[1])
        parts.append(f'<line class="{kind}" x1="{at}%" x2="{at}%" y1="{y_axis(spot.y[0])}" y2="{y_axis(spot.y[2])}"/>')
    return "".join(parts)


def _mark(spot: Spot, frame: Frame, x_axis: Axis, y_axis: Axis) -> str:
    said = escape(f"{spot.label}: {frame.x_label} {_span(spot.x, frame.x_format)}, "
                  f"{frame.y_label} {_span(spot.y, frame.y_format)}")
    circle = (f'<circle class="c-dot c-t{spot.series % SERIES}{" c-hollow" if spot.hollow else ""}" r="5" '
              f'cx="{x_axis(spot.x[1])}%" cy="{y_axis(spot.y[1])}"><title>{said}</title></circle>')
    return f'<a href="{escape(spot.href)}" aria-label="{said}">{circle}</a>' if spot.href else circle


def _span(span: tuple[float, float, float], written: Format) -> str:
    low, value, high = span
    return f"{written(value)} ({written(low)} to {written(high)})" if low < high else written(value)
