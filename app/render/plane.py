"""The plane of decoder directions: a point for each living latent, or cells where there are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from app.render.numbers import density
from sae.store.build import Build

POINTS = 5000  # more than these are drawn as cells
_CELLS = 72  # along the wider side
_WIDTH, _HEIGHT, _EDGE = 1000, 680, 10
SIZES = (1e-4, 1e-3, 1e-2)  # densities at which a point grows


@dataclass(frozen=True)
class Place:
    """A latent's place in the plane."""

    latent: int
    x: float
    y: float
    density: float


At = Callable[[Place], tuple[float, float]]


def plane(build: Build, sae_id: str, names: dict[int, str]) -> Markup:
    """An SVG whose points lead to their latents; `names` are labels for the tooltips."""
    places = [Place(*row) for row in build.map_points()]
    if not places:
        return Markup("")
    low_x, high_x = min(p.x for p in places), max(p.x for p in places)
    low_y, high_y = min(p.y for p in places), max(p.y for p in places)

    def at(place: Place) -> tuple[float, float]:
        across = (place.x - low_x) / ((high_x - low_x) or 1)
        up = (place.y - low_y) / ((high_y - low_y) or 1)
        return _EDGE + across * (_WIDTH - 2 * _EDGE), _HEIGHT - _EDGE - up * (_HEIGHT - 2 * _EDGE)

    marks = _points(places, at, sae_id, names) if len(places) <= POINTS else _cells(places, at, sae_id)
    return Markup(
        f'<svg class="plane" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="Map of {len(places)} decoder '
        f'directions">{"".join(marks)}</svg>')


def _points(places: Sequence[Place], at: At, sae_id: str, names: dict[int, str]) -> list[str]:
    out = []
    for place in sorted(places, key=lambda p: -p.density):
        x, y = at(place)
        size = 2 + sum(place.density >= step for step in SIZES)
        name = f" · {names[place.latent]}" if place.latent in names else ""
        css = ' class="named"' if name else ""
        out.append(
            f'<a href="/{sae_id}/{place.latent}" tabindex="-1"><circle{css} cx="{x:.1f}" cy="{y:.1f}" r="{size}">'
            f"<title>{place.latent}{escape(name)} · {density(place.density)}</title></circle></a>")
    return out


def _cells(places: Sequence[Place], at: At, sae_id: str) -> list[str]:
    """A square for each cell that holds latents; it leads to the one that fires most."""
    side = (_WIDTH - 2 * _EDGE) / _CELLS
    cells: dict[tuple[int, int], list[Place]] = {}
    for place in places:
        x, y = at(place)
        cells.setdefault((int((x - _EDGE) // side), int((y - _EDGE) // side)), []).append(place)
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
