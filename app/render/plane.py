"""The map of decoder directions as SVG: the points of a window of it, or cells where the window has many.

The SVG's user units are those of the whole map, and its viewBox is the window, so that a script can move and zoom what
is drawn before the server draws the new window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape
from starlette.datastructures import QueryParams

from app.render.numbers import density, whole
from sae.store.map_points import MapPoints

POINTS = 4000  # more points than these in the window are drawn as cells
MAX_ZOOM = 64.0
WIDTH, HEIGHT, _EDGE = 1000.0, 680.0, 10.0
_CELLS = 72  # number of cells along the wider side
SIZES = (1e-4, 1e-3, 1e-2)  # densities at which a point grows
_LETTER, _LINE = 7.0, 16.0  # of a label in pixels, about


@dataclass(frozen=True)
class View:
    """A window of the map: its centre, in shares of the map from the upper left corner, and its zoom."""

    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5

    @classmethod
    def read(cls, params: QueryParams) -> View:
        """Read a window from a query; what is no number, or outside, becomes the nearest window that there is."""
        def number(text: str, default: float) -> float:
            try:
                value = float(text)
            except ValueError:
                return default
            return value if np.isfinite(value) else default

        return cls(number(params.get("zoom", ""), 1.0), number(params.get("x", ""), 0.5),
                   number(params.get("y", ""), 0.5)).inside()

    def inside(self) -> View:
        """Return the window moved and zoomed so that it is a part of the map."""
        zoom = min(max(self.zoom, 1.0), MAX_ZOOM)
        half = 0.5 / zoom
        x, y = (min(max(value, half), 1 - half) for value in (self.x, self.y))
        return View(round(zoom, 3), round(x, 4), round(y, 4))

    def zoomed(self, factor: float) -> View:
        return replace(self, zoom=self.zoom * factor).inside()

    def moved(self, right: float, down: float) -> View:
        """Return the window moved by shares of its own size."""
        return replace(self, x=self.x + right / self.zoom, y=self.y + down / self.zoom).inside()

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, width and height in user units."""
        width, height = WIDTH / self.zoom, HEIGHT / self.zoom
        return self.x * WIDTH - width / 2, self.y * HEIGHT - height / 2, width, height


@dataclass(frozen=True)
class Colours:
    """Each point's colour class, [N], an index of `css`; `labels` are texts at points: (index of the point, text)."""

    index_N: np.ndarray
    css: Sequence[str]
    labels: Sequence[tuple[int, str]] = ()


def places(points: MapPoints) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the points in user units."""
    def spread(values: np.ndarray) -> np.ndarray:
        low, high = float(values.min()), float(values.max())
        return (values - low) / ((high - low) or 1.0)

    return (_EDGE + spread(points.x_N) * (WIDTH - 2 * _EDGE),
            HEIGHT - _EDGE - spread(points.y_N) * (HEIGHT - 2 * _EDGE))


def plane(
    points: MapPoints, view: View, colours: Colours, sae_id: str, names: Callable[[list[int]], Mapping[int, str]],
    hits: Sequence[int] = (),
) -> Markup:
    """Return an SVG whose points link to their latents; `hits` are ringed latents.

    `names` returns the names of the latents that are drawn, for the hover.
    """
    if not len(points.latent_N):
        return Markup("")
    x_N, y_N = places(points)
    left, top, width, height = view.box
    inside = np.flatnonzero((x_N >= left) & (x_N <= left + width) & (y_N >= top) & (y_N <= top + height))
    ringed = inside[np.isin(points.latent_N[inside], list(hits))]
    named = names(points.latent_N[inside if len(inside) <= POINTS else ringed].tolist())
    drawn = _Drawing(points, colours, sae_id, named, x_N, y_N, view)
    marks = list(drawn.points(inside) if len(inside) <= POINTS else drawn.cells(inside))
    marks += [drawn.point(i, "hit", 3.0) for i in ringed]
    marks += drawn.labels(inside)
    return Markup(
        f'<svg class="plane" viewBox="{left:.2f} {top:.2f} {width:.2f} {height:.2f}" role="group" aria-label="Map of '
        f'{whole(len(inside))} decoder directions">{"".join(marks)}</svg>')


@dataclass(frozen=True)
class _Drawing:
    """What every mark needs; sizes are in pixels of the whole map, divided by the zoom."""

    all: MapPoints
    colours: Colours
    sae_id: str
    names: Mapping[int, str]
    x_N: np.ndarray
    y_N: np.ndarray
    view: View

    def points(self, inside: np.ndarray) -> Iterator[str]:
        """Yield the points, those that fire most first, so that small ones stay visible."""
        for i in inside[np.argsort(-self.all.density_N[inside], kind="stable")]:
            yield self.point(i)

    def point(self, i: int, css: str = "", more: float = 0.0) -> str:
        latent, fires = int(self.all.latent_N[i]), float(self.all.density_N[i])
        size = (2 + sum(fires >= step for step in SIZES) + more) / self.view.zoom
        name = f" · {self.names[latent]}" if latent in self.names else ""
        kinds = f"{self.colours.css[int(self.colours.index_N[i])]} {css}".strip()
        return (
            f'<a href="/{self.sae_id}/{latent}" tabindex="-1"><circle class="{kinds}" cx="{self.x_N[i]:.1f}"'
            f' cy="{self.y_N[i]:.1f}" r="{size:.4g}"><title>{latent}{escape(name)} · {density(fires)}</title>'
            '</circle></a>')

    def cells(self, inside: np.ndarray) -> Iterator[str]:
        """Yield a square for each cell with latents, in the colour of most; it links to the latent that fires most."""
        left, top, width, _ = self.view.box
        side = width / _CELLS
        column, row = (((at[inside] - edge) // side).astype(int) for at, edge in ((self.x_N, left), (self.y_N, top)))
        key = row * (_CELLS + 1) + column
        order = np.argsort(key, kind="stable")
        cells = np.split(inside[order], np.flatnonzero(np.diff(key[order])) + 1)
        fullest = max(map(len, cells))
        for some in cells:
            most = some[np.argmax(self.all.density_N[some])]
            css = self.colours.css[int(np.bincount(self.colours.index_N[some]).argmax())]
            step = min(int(8 * (len(some) / fullest) ** 0.5), 7)
            x, y = (edge + side * int((at[some[0]] - edge) // side) for at, edge in ((self.x_N, left), (self.y_N, top)))
            latent = int(self.all.latent_N[most])
            yield (
                f'<a href="/{self.sae_id}/{latent}" tabindex="-1"><rect class="cell s{step} {css}" x="{x:.2f}"'
                f' y="{y:.2f}" width="{side:.2f}" height="{side:.2f}"><title>{whole(len(some))} latents here; {latent}'
                f" fires most ({density(float(self.all.density_N[most]))})</title></rect></a>")

    def labels(self, inside: np.ndarray) -> Iterator[str]:
        """Yield the labels of points in the window, in order, without those that would cover an earlier one."""
        zoom, there = self.view.zoom, np.zeros(len(self.x_N), dtype=bool)
        there[inside] = True
        left, _, width, _ = self.view.box
        taken: list[tuple[float, float, float]] = []
        for i, text in self.colours.labels:
            half = len(text) * _LETTER / 2 / zoom
            x = min(max(float(self.x_N[i]), left + half), left + width - half)
            y = float(self.y_N[i])
            if there[i] and all(
                    abs(x - x2) > half + half2 or abs(y - y2) > _LINE / zoom for x2, y2, half2 in taken):
                taken.append((x, y, half))
                yield (f'<text class="plane-label" x="{x:.1f}" y="{y:.1f}" font-size="{12 / zoom:.4g}"'
                       f' text-anchor="middle">{escape(text)}</text>')
