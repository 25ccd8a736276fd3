"""The points of a build's map as arrays, and clusters of latents with similar decoder directions.  No torch.

Shapes: N latents on the map, E pairs of near directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from sae.store.build import Build

DRAWN = 1 << 18  # latents of the map; of a build with more, one in so many is drawn, chosen by a hash
_ROWS = 65_536
_SHARPNESS = 4  # the power of a cosine in the density of a point, so that near directions decide


@dataclass(frozen=True, eq=False)
class MapPoints:
    """The latents that have a place on the map, by number; of a large build, about one in `every`."""

    latent_N: np.ndarray
    x_N: np.ndarray
    y_N: np.ndarray
    density_N: np.ndarray
    every: int = 1

    def plus(self, build: Build, latents: Sequence[int]) -> MapPoints:
        """Return the points and those of some latents that are not drawn."""
        missing = sorted(set(latents).difference(self.latent_N[np.isin(self.latent_N, list(latents))].tolist()))
        rows = [(latent, facts) for latent in missing if self.every > 1 and (
            facts := build.facts(latent, "map_x", "map_y", "density")).get("map_x") is not None]
        if not rows:
            return self
        order = np.argsort(numbers := np.append(self.latent_N, [latent for latent, _ in rows]))
        x_N, y_N, density_N = (np.append(own, [facts[name] for _, facts in rows])[order] for own, name in (
            (self.x_N, "map_x"), (self.y_N, "map_y"), (self.density_N, "density")))
        return MapPoints(numbers[order], x_N, y_N, density_N, self.every)


_points: WeakKeyDictionary[Build, MapPoints] = WeakKeyDictionary()
_clusters: WeakKeyDictionary[Build, np.ndarray] = WeakKeyDictionary()
_lock = Lock()


def map_points(build: Build) -> MapPoints:
    """Return the points of a build's map, which are read once."""
    with _lock:
        if build not in _points:
            every = -(-build.n_latents // DRAWN)
            table = build.arrow("SELECT latent, map_x, map_y, density FROM latent WHERE map_x IS NOT NULL AND"
                                f" map_y IS NOT NULL AND hash(latent) % {every} = 0 ORDER BY latent", _ROWS).read_all()
            latent_N, x_N, y_N, density_N = (table.column(i).to_numpy() for i in range(4))
            _points[build] = MapPoints(latent_N, x_N, y_N, density_N, every)
        return _points[build]


def direction_clusters(build: Build) -> np.ndarray:
    """Return the cluster of each point, [N], numbered from the largest.

    The neighbours are the nearest decoder rows that the build keeps for each latent.  Clusters are found once, and only
    of builds whose latents are all on the map.
    """
    points = map_points(build)
    with _lock:
        if build not in _clusters:
            table = build.arrow("SELECT latent, unnest(neighbours) AS other, unnest(neighbour_cos) AS cos FROM latent"
                                " WHERE map_x IS NOT NULL", _ROWS).read_all()
            ends = [np.searchsorted(points.latent_N, table.column(i).to_numpy()) for i in (0, 1)]
            other_E = table.column(1).to_numpy()
            there = points.latent_N[np.minimum(ends[1], len(points.latent_N) - 1)] == other_E if len(other_E) else []
            cos_E = table.column(2).to_numpy()[there]
            _clusters[build] = quick_shift(len(points.latent_N), ends[0][there], ends[1][there], cos_E)
        return _clusters[build]


def quick_shift(n: int, from_E: np.ndarray, to_E: np.ndarray, cos_E: np.ndarray) -> np.ndarray:
    """Return the cluster of each of `n` points, numbered from the largest (quick shift: Vedaldi and Soatto 2008).

    The density of a point is the sum of its cosines, to a power, with its neighbours.  Each point joins its nearest
    neighbour of higher density; one that has none is the centre of a cluster.  Ties go to the lowest number.
    """
    node_E, other_E = np.concatenate([from_E, to_E]), np.concatenate([to_E, from_E])
    cos_E = np.concatenate([cos_E, cos_E])
    density_N = np.bincount(node_E, cos_E.clip(0) ** _SHARPNESS, minlength=n)
    higher_E = (density_N[other_E] > density_N[node_E]) | (
        (density_N[other_E] == density_N[node_E]) & (other_E < node_E))
    node, other, cos = node_E[higher_E], other_E[higher_E], cos_E[higher_E]
    best = np.lexsort((other, -cos, node))
    joins, first = np.unique(node[best], return_index=True)
    root_N = np.arange(n)
    root_N[joins] = other[best][first]
    while not np.array_equal(root_N, root_N[root_N]):  # each step doubles the length of the path
        root_N = root_N[root_N]
    _, first_C, place_N, size_C = np.unique(root_N, return_index=True, return_inverse=True, return_counts=True)
    rank_C = np.empty(len(size_C), dtype=np.int64)
    rank_C[np.lexsort((first_C, -size_C))] = np.arange(len(size_C))
    return rank_C[place_N]
