"""Tests of the map's points and of clusters of near directions."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np

from sae.store.map_points import direction_clusters, map_points, quick_shift


def pairs(cosines: dict[tuple[int, int], float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = np.array(list(cosines))
    return ends[:, 0], ends[:, 1], np.array(list(cosines.values()))


def test_groups_of_near_directions_are_clusters_from_the_largest() -> None:
    far = {(i, j): 0.9 for i in range(4) for j in range(4) if i != j}
    near = {(i, j): 0.8 for i in (4, 5, 6) for j in (4, 5, 6) if i != j}
    found = quick_shift(8, *pairs(far | near))
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 1, 2], "one without neighbours is a cluster of its own"


def test_a_point_joins_its_nearest_denser_neighbour() -> None:
    # A star around 0 and a star around 5; 9 is nearer to 5, whose star it joins.
    stars = {(0, i): 0.7 for i in (1, 2, 3)} | {(5, i): 0.7 for i in (6, 7, 8)}
    found = quick_shift(10, *pairs(stars | {(9, 0): 0.3, (9, 5): 0.4}))
    assert found[9] == found[5]
    assert found[9] != found[0]
    assert len(set(found.tolist())) == 3, "4 is alone"


def test_equal_densities_end_in_the_lowest_number() -> None:
    ring = {(i, (i + 1) % 6): 0.5 for i in range(6)}
    assert set(quick_shift(6, *pairs(ring)).tolist()) == {0}
    assert quick_shift(3, *(np.zeros(0, dtype=kind) for kind in (int, int, float))).tolist() == [0, 1, 2]


class Tables:
    """A build with the columns of the map alone; latents 2 and 5 have no place on it."""

    def __init__(self) -> None:
        self.asked, self.n_latents = 0, 6
        self._con = duckdb.connect()
        self._con.execute(
            "CREATE TABLE latent AS SELECT i AS latent, CASE WHEN i NOT IN (2, 5) THEN i / 2 END AS map_x,"
            " CASE WHEN i NOT IN (2, 5) THEN 1.0 END AS map_y, i / 100 AS density, CASE WHEN i = 3 THEN [4, 5]"
            " WHEN i = 4 THEN [3] ELSE []::INTEGER[] END AS neighbours, CASE WHEN i = 3 THEN [0.9, 0.8]"
            " WHEN i = 4 THEN [0.9] ELSE []::FLOAT[] END AS neighbour_cos FROM range(6) AS t(i)")

    def arrow(self, sql: str, batch_rows: int) -> Any:
        self.asked += 1
        return self._con.cursor().sql(sql).to_arrow_reader(batch_rows)


def test_points_and_clusters_of_a_build_are_read_once() -> None:
    build: Any = Tables()
    points = map_points(build)
    assert points.latent_N.tolist() == [0, 1, 3, 4]
    assert points.x_N.tolist() == [0, 0.5, 1.5, 2]
    assert direction_clusters(build).tolist() == [1, 2, 0, 0], "5 is no point, although it is a neighbour"
    assert map_points(build) is points
    assert direction_clusters(build) is direction_clusters(build)
    assert build.asked == 2
