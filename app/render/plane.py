"""The map of decoder directions: a point for each alive latent, or cells if there are many."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from app.render.numbers import density
from sae.store.build import Build

POINTS = 5000  # more points than these are drawn as cells
_CELLS = 72  # number of cells along the wider side
_WIDTH, _HEIGHT, _EDGE = 1000, 680, 10
SIZES = (1e-4, 1e-3, 1e-2)  # densities at which a point grows


@dataclass(frozen=True)
class Point:
    """A latent's position on the map."""

    latent: int
    x: float
    y: float
    density: float


At = Callable[[Point], tuple[float, float]]


def plane(build: Build, sae_id: str, names: Mapping[int, str], ringed: Collection[int] = ()) -> Markup:
    """Return an SVG whose points link to their latents; `names` are for the tooltips, and `ringed` have a ring."""
    points = [Point(*row) for row in build.map_points()]
    if not points:
        return Markup("")
    low_x, high_x = min(p.x for p in points), max(p.x for p in points)
    low_y, high_y = min(p.y for p in points), max(p.y for p in points)

    def at(point: Point) -> tuple[float, float]:
        across = (point.x - low_x) / ((high_x - low_x) or 1)
        up = (point.y - low_y) / ((high_y - low_y) or 1)
        return _EDGE + across * (_WIDTH - 2 * _EDGE), _HEIGHT - _EDGE - up * (_HEIGHT - 2 * _EDGE)

    marks = _points(points, at, sae_id, names, ringed) if len(points) <= POINTS else _cells(points, at, sae_id)
    return Markup(
        f'<svg class="plane" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="Map of {len(points)} decoder '
        f'directions">{"".join(marks)}</svg>')


def _points(
    points: Sequence[Point], at: At, sae_id: str, names: Mapping[int, str], ringed: Collection[int],
) -> list[str]:
    out = []
    for point in sorted(points, key=lambda p: -p.density):
        x, y = at(point)
        size = 2 + sum(point.density >= step for step in SIZES)
        name = f" · {names[point.latent]}" if point.latent in names else ""
        css = ' class="named"' if point.latent in ringed else ""
        out.append(
            f'<a href="/{sae_id}/{point.latent}" tabindex="-1"><circle{css} cx="{x:.1f}" cy="{y:.1f}" r="{size}">'
            f"<title>{point.latent}{escape(name)} · {density(point.density)}</title></circle></a>")
    return out


def _cells(points: Sequence[Point], at: At, sae_id: str) -> list[str]:
    """Return a square for each cell with latents; it links to the latent that fires most."""
    side = (_WIDTH - 2 * _EDGE) / _CELLS
    cells: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        x, y = at(point)
        cells.setdefault((int((x - _EDGE) // side), int((y - _EDGE) // side)), []).append(point)
    top = max(map(len, cells.values()))
    out = []
    for (column, row), inside in sorted(cells.items()):
        most = max(inside, key=lambda p: p.density)
        step = min(int(8 * (len(inside) / top) ** 0.5), 7)
        out.append(
            f'<a href="/{sae_id}/{most.latent}" tabindex="-1"><rect class="cell s{step}" '
            f'x="{_EDGE + column * side:.1f}" y="{_EDGE + row * side:.1f}" width="{side:.1f}" '
            f'height="{side:.1f}"><title>{len(inside)} latents here; '
            f"{most.latent} fires most ({density(most.density)})</title></rect></a>")
    return out
