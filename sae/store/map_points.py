"""The points of a build's map as arrays, and clusters of latents with similar decoder directions.  No torch.

Shapes: N latents on the map, E pairs of near directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from sae.store.build import Build

_ROWS = 65_536
_SHARPNESS = 4  # the power of a cosine in the density of a point, so that near directions decide


@dataclass(frozen=True, eq=False)
class MapPoints:
    """The latents that have a place on the map, by number."""

    latent_N: np.ndarray
    x_N: np.ndarray
    y_N: np.ndarray
    density_N: np.ndarray


_points: WeakKeyDictionary[Build, MapPoints] = WeakKeyDictionary()
_clusters: WeakKeyDictionary[Build, np.ndarray] = WeakKeyDictionary()
_lock = Lock()


def map_points(build: Build) -> MapPoints:
    """Return the points of a build's map, which are read once."""
    with _lock:
        if build not in _points:
            table = build.arrow("SELECT latent, map_x, map_y, density FROM latent WHERE map_x IS NOT NULL AND"
                                " map_y IS NOT NULL ORDER BY latent", _ROWS).read_all()
            _points[build] = MapPoints(*(table.column(i).to_numpy() for i in range(4)))
        return _points[build]


def direction_clusters(build: Build) -> np.ndarray:
    """Return the cluster of each point, [N], numbered from the largest.

    The neighbours are the nearest decoder rows that the build keeps for each latent.  Clusters are found once.
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
