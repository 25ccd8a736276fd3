"""Tests of the columns of all latents as arrays, against every latent looked at one by one."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from sae.store import map_points as maps
from sae.store.build import Build
from sae.store.latent_query import SCORE_SORT, Filters
from sae.store.whole_columns import StrongestOfKeys, by_number
from tests.builds import make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder: Path = tmp_path_factory.mktemp("columns")
    return Build.open(make_build(folder / "b.duckdb", n_latents=60, n_contexts=24).path)


@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_the_strongest_of_each_key_do_not_depend_on_the_parts(n_parts: int) -> None:
    chance = np.random.default_rng(0)
    key, latent = chance.integers(-1, 6, 400), np.arange(400)
    value = chance.integers(0, 20, 400).astype(np.float32)  # many are equal
    found = StrongestOfKeys(5, 9)
    for part in np.array_split(np.arange(400), n_parts):
        found.add(key[part], value[part], latent[part])
    for one in range(5):
        expected = sorted((-value[i], i) for i in range(400) if key[i] == one)[:9]
        latents, values = found.of(one)
        assert list(zip((-values).tolist(), latents.tolist(), strict=True)) == expected
    assert len(found.of(5)[0]) == 0, "there are five keys"


def test_firing_rates_are_those_of_the_latents(build: Build) -> None:
    rates = build.firing_rates
    for latent in range(-1, 61):
        facts = build.latent(latent) if 0 <= latent < 60 else None
        fires = facts is not None and bool(facts.density)
        assert (latent in rates) == fires
        expected = (facts.density, facts.max_act) if fires and facts is not None else (0.0, 0.0)
        assert rates.get(latent, (0.0, 0.0)) == pytest.approx(expected)


def test_a_column_by_number_says_what_is_missing(build: Build) -> None:
    numbers = by_number(build, "CASE WHEN latent % 2 = 0 THEN latent END", -1, np.int64)
    assert numbers.tolist() == [i if i % 2 == 0 else -1 for i in range(60)]


def test_rules_count_as_scores_and_as_explanations(tmp_path: Path) -> None:
    path = make_build(tmp_path / "b.duckdb", n_latents=20, n_contexts=8).path
    with duckdb.connect(str(path)) as con:
        con.execute("UPDATE latent SET rule_f1 = CASE WHEN latent < 5 THEN 0.1 * (latent + 5) END")
    ruled = Build.open(path)
    try:
        def listed(**filters: object) -> list[int]:
            return [row.latent for row in ruled.latents(limit=100, filters=Filters(**filters)).rows]  # type: ignore[arg-type]

        assert listed(ruled=(0.55, frozenset({9}), True)) == [1, 2, 3, 4, 9]
        assert listed(ruled=(0.55, frozenset({9}), False)) == [0, *range(5, 9), *range(10, 20)]
        best = Filters(scores=((9, 0.75), (1, 0.2)), rule_scores=0.55)
        assert [row.latent for row in ruled.latents(SCORE_SORT, True, best, limit=5).rows] == [4, 3, 9, 2, 1]
    finally:
        ruled.close()


def test_of_a_large_build_a_sample_is_on_the_map_and_what_was_found(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "_points", {})
    monkeypatch.setattr(maps, "DRAWN", 20)
    monkeypatch.setattr(build, "arrow", lambda sql, rows: _places(sql))
    monkeypatch.setattr(build, "facts", lambda latent, *names: dict.fromkeys(names, float(latent)))
    points = maps.map_points(build)
    assert points.every == 3
    assert points.latent_N.tolist() == [3, 7]
    assert points.plus(build, [7]) is points
    more = points.plus(build, [5, 7])
    assert more.latent_N.tolist() == [3, 5, 7]
    assert more.x_N.tolist() == [0.3, 5.0, 0.7]
    assert more.every == 3


def _places(sql: str) -> object:
    assert "hash(latent) % 3 = 0" in sql
    table = pa.table({"latent": [3, 7], "x": [0.3, 0.7], "y": [0.1, 0.2], "density": [0.01, 0.02]})
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
