"""Counts of lists compared with the rows that DuckDB lists, and what is remembered of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae.store.build import Build
from sae.store.connection import MAX_PAGE
from sae.store.facets import list_counts
from sae.store.firings import firings_on
from sae.store.latent_query import ALIVE, DENSITIES, LOGIT_SORT, Filters
from sae.store.recent import Recent
from sae.store.records import FLAGS
from tests.builds import make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    build = Build.open(make_build(tmp_path_factory.mktemp("store") / "b-1.duckdb", n_latents=60, n_contexts=20).path)
    yield build
    build.close()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flags=st.frozensets(st.sampled_from([*FLAGS, ALIVE]), max_size=2), density=st.sampled_from(["", *DENSITIES]),
       among=st.none() | st.frozensets(st.integers(-5, 90)), place=st.integers(0, 59), kind=st.sampled_from("-tl"))
def test_a_list_has_as_many_latents_as_rows(
    build: Build, flags: frozenset[str], density: str, among: frozenset[int] | None, place: int, kind: str,
) -> None:
    latent = build.latent(place)
    assert latent is not None
    token = latent.top_tokens[0].token if kind == "t" and latent.top_tokens else None
    logit = latent.logit_pos[0][0] if kind == "l" else None

    def rows(flags: frozenset[str], density: str) -> int:
        return len(build.latents(filters=Filters(flags, density, among, logit), token=token, limit=MAX_PAGE).rows)

    total, facets = list_counts(build, Filters(flags, density, among, logit), token)
    assert total == rows(flags, density)
    for flag in (ALIVE, "dense"):
        assert facets["flag"][flag] == rows(flags | {flag}, density)
    assert facets["density"]["1e-1"] == rows(flags, "1e-1")
    if logit is not None:
        listed = build.latents(LOGIT_SORT, True, Filters(logit=logit), limit=MAX_PAGE).rows
        found = [row for row in build.latents(limit=MAX_PAGE).rows if logit in row.logit_pos]
        assert sorted(row.latent for row in listed) == [row.latent for row in found]


def test_a_page_is_read_once_and_a_long_one_is_not_kept(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build.latents("density", limit=3)  # whether the column has a NaN is kept, too
    asked: list[str] = []
    read = Build._rows
    monkeypatch.setattr(Build, "_rows", lambda self, sql, values=(): asked.append(sql) or read(self, sql, values))
    first = build.latents("density", True, limit=7)
    assert build.latents("density", True, limit=7) is first
    assert len(asked) == 1
    assert build.latents("density", True, limit=8).rows[:7] == first.rows
    assert build.latents(limit=MAX_PAGE) is not build.latents(limit=MAX_PAGE)


def test_firings_are_the_same_from_memory_and_from_the_file(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = sorted(build.vocabulary)[:6]
    kept = firings_on(build, tokens)
    monkeypatch.setattr("sae.store.firings._KEPT", 0)
    read = firings_on(build, tokens)
    assert len(kept[0]) > 0
    for a, b in zip(kept, read, strict=True):
        assert sorted(a.tolist()) == sorted(b.tolist())
    assert [len(column) for column in firings_on(build, [10**6])] == [0, 0, 0, 0]


def test_the_oldest_result_is_forgotten() -> None:
    recent, made = Recent[int](2), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert [recent.get(key, make) for key in ("a", "b", "a", "c", "a", "b")] == [1, 2, 1, 3, 1, 4]
