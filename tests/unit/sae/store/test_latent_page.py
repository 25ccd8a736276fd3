"""Tests of pages of the latent table, and of a latent's neighbours in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sae.store.build import Build
from sae.store.latent_page import neighbours
from sae.store.latent_query import SORTS, TOKEN_SORTS, Filters
from tests.builds import make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    path: Path = make_build(tmp_path_factory.mktemp("page") / "b-1.duckdb", n_latents=60, n_contexts=20).path
    build = Build.open(path)
    yield build
    build.close()


def test_some_latents_have_the_rows_of_the_list_which_is_not_counted(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {row.latent: row for row in build.latents(limit=60).rows}
    monkeypatch.delattr(Build, "counted")
    assert build.some([7, 3, 3, 999, 59]) == [listed[latent] for latent in (3, 7, 59)]
    assert build.some([]) == []


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", sorted(set(SORTS) - TOKEN_SORTS))
def test_the_neighbours_of_a_latent_are_beside_it_in_the_list(build: Build, sort: str, descending: bool) -> None:
    query = build._query(sort, descending, Filters(), None)
    keys = {row["latent"]: row["sort_key"] for row in build._rows(
        f"SELECT l.latent, {query.key} AS sort_key FROM {query.source}")}
    order = [row.latent for row in build.latents(sort, descending, limit=60).rows]
    assert len(order) == 60
    for before, latent, after in zip([None, *order], order, [*order[1:], None], strict=False):
        assert neighbours(build, query, keys[latent], latent) == (before, after)
