"""The build's answers compared with the dense activations that a synthetic build was made from."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copyfile

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae.errors import UserError
from sae.store.build import Build
from sae.store.latent_query import (
    ALIVE,
    DENSITIES,
    SORTS,
    TOKEN_SORTS,
    Filters,
    encode_cursor,
)
from sae.store.records import FLAGS
from tests.builds import S, Synthetic, make_build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_build(tmp_path_factory.mktemp("store") / "b-1.duckdb", n_latents=120, n_contexts=40)


@pytest.fixture(scope="module")
def build(made: Synthetic) -> Iterator[Build]:
    build = Build.open(made.path)
    yield build
    build.close()


def counted(made: Synthetic) -> np.ndarray:
    """Return activations without BOS."""
    return np.where(np.tile(np.arange(S), len(made.tokens))[:, None] > 0, made.acts, 0)


def test_a_latent(build: Build, made: Synthetic) -> None:
    acts = counted(made)[:, 4]
    latent = build.latent(4)
    assert latent is not None
    assert latent.n_tokens == (acts > 0).sum()
    assert latent.max_act == acts.max()
    assert sum(latent.hist) == latent.n_tokens
    assert latent.top_tokens[0].n == max(t.n for t in latent.top_tokens)
    assert latent.neighbours[0][1] >= latent.neighbours[-1][1]
    assert not latent.dead


def test_a_dead_latent_and_a_number_that_is_none(build: Build) -> None:
    dead = build.latent(7)
    assert dead is not None
    assert dead.dead
    assert build.contexts(7) == []
    assert build.latent(120) is None


def test_contexts_carry_the_activations_of_their_window(build: Build, made: Synthetic) -> None:
    acts = counted(made)[:, 4].reshape(made.tokens.shape)
    contexts = build.contexts(4)
    assert [c.band for c in contexts] == sorted(c.band for c in contexts)
    top = [c for c in contexts if c.band == 0]
    assert [c.act for c in top] == sorted((c.act for c in top), reverse=True)
    for context in contexts:
        assert context.acts == pytest.approx(acts[context.ctx].tolist())
        assert context.acts[context.peak] == pytest.approx(context.act)
        assert context.document


def test_snippets_are_the_strongest_contexts(build: Build) -> None:
    snippets = build.snippets([4, 7, 90, 4])
    assert snippets == {latent: build.windows(latent)[0] for latent in (4, 90)}
    assert build.snippets([]) == {}


filters = st.builds(
    Filters,
    flags=st.frozensets(st.sampled_from([*FLAGS, ALIVE]), max_size=1),
    density=st.sampled_from(["", *DENSITIES]),
    among=st.none() | st.frozensets(st.integers(-1, 130)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sort=st.sampled_from(sorted(SORTS)), descending=st.booleans(), filters=filters, limit=st.integers(1, 60),
       by_token=st.booleans())
def test_paging_neither_skips_nor_repeats(
    build: Build, sort: str, descending: bool, filters: Filters, limit: int, by_token: bool,
) -> None:
    token = build.find_tokens("self")[0].token if by_token or sort in TOKEN_SORTS else None
    everything = build.latents(sort, descending, filters, token, limit=1000)
    assert everything.next_cursor is None
    seen: list[int] = []
    cursor = None
    while True:
        page = build.latents(sort, descending, filters, token, cursor, limit)
        assert page.total == everything.total
        assert len(page.rows) <= limit
        seen += [row.latent for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [row.latent for row in everything.rows]
    assert len(set(seen)) == len(seen) == everything.total


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sort=st.sampled_from(sorted(set(SORTS) - TOKEN_SORTS)), descending=st.booleans(), filters=filters)
def test_around_follows_the_order_of_the_list(build: Build, sort: str, descending: bool, filters: Filters) -> None:
    order = [row.latent for row in build.latents(sort, descending, filters, limit=1000).rows]
    for i in {0, len(order) // 2, len(order) - 1} if order else ():
        before = order[i - 1] if i else None
        after = order[i + 1] if i + 1 < len(order) else None
        assert build.around(order[i], sort, descending, filters) == (before, after)


def test_around_a_latent_outside_the_list(build: Build) -> None:
    assert build.around(4, filters=Filters(frozenset({"dead"}))) == (None, None)


def test_sorting_by_density(build: Build, made: Synthetic) -> None:
    n = (counted(made) > 0).sum(axis=0)
    rows = build.latents("density", True, limit=1000).rows
    assert [row.n_tokens for row in rows] == sorted(n.tolist(), reverse=True)


def test_search_by_token(build: Build, made: Synthetic) -> None:
    token = build.find_tokens("self")[0].token
    acts = counted(made)
    n = (acts[made.tokens.reshape(-1) == token] > 0).sum(axis=0)
    page = build.latents("token", True, token=token, limit=1000)
    assert {row.latent: row.token_n for row in page.rows} == {i: c for i, c in enumerate(n.tolist()) if c}


def test_search_by_a_raised_logit(build: Build) -> None:
    token = build.latent(9).logit_pos[0][0]
    expected = {latent: value for latent in range(build.n_latents) for t, value in build.latent(latent).logit_pos
                if t == token}
    rows = build.latents("logit", True, Filters(logit=token), limit=1000).rows
    assert {row.latent: row.logit for row in rows} == pytest.approx(expected)
    assert [row.logit for row in rows] == sorted(expected.values(), reverse=True)
    assert [row.sort_value for row in rows] == [row.logit for row in rows]
    both = build.latents("logit", True, Filters(frozenset({ALIVE}), logit=token), build.find_tokens("self")[0].token)
    assert {row.latent for row in both.rows} < set(expected)
    with pytest.raises(UserError, match="sort"):
        build.latents("logit")


def test_the_sorted_number_comes_with_each_row(build: Build) -> None:
    rows = build.latents("skew", True, limit=1000).rows
    assert [row.sort_value for row in rows] == [row.skew_act for row in rows]
    position = build.latents("position", limit=3).rows
    assert [row.sort_value for row in position] == [build.latent(row.latent).mean_position for row in position]


def test_snippets_on_a_token(build: Build) -> None:
    token = build.find_tokens("self")[0].token
    rows = build.latents("lift", True, token=token, limit=1000).rows
    found = build.snippets([row.latent for row in rows], token)
    plain = build.snippets([row.latent for row in rows])
    assert found.keys() == plain.keys()
    on_token = [latent for latent, context in found.items() if context.tokens[context.peak] == token]
    assert len(on_token) > len(rows) // 2
    for latent, context in found.items():
        acts = [act for kept in build.windows(latent) for t, act in zip(kept.tokens, kept.acts, strict=True)
                if t == token and act > 0]
        assert (latent in on_token) == bool(acts)
        assert context.act == (max(acts) if acts else plain[latent].act)
        assert context.acts[context.peak] == context.act


def test_facets_say_what_the_list_would_have(build: Build) -> None:
    base = Filters(frozenset({ALIVE}))
    facets = build.facets(base)
    for flag, n in facets["flag"].items():
        assert len(build.latents(filters=Filters(base.flags | {flag}), limit=200).rows) == n
    for decade, n in facets["density"].items():
        assert len(build.latents(filters=Filters(base.flags, decade), limit=200).rows) == n
    assert sum(facets["density"].values()) == facets["flag"][ALIVE] == build.counts()[ALIVE]


@pytest.mark.parametrize("cursor", ["x", "", "WzFd", "W25hbiwgMV0", "bnVsbA", encode_cursor(1.0, -1), "é"])
def test_a_made_up_cursor_is_refused(build: Build, cursor: str) -> None:
    if cursor == "":
        assert build.latents(cursor="").rows
        return
    with pytest.raises(UserError) as caught:
        build.latents(cursor=cursor)
    assert caught.value.field == "cursor"


def test_unknown_sorts_are_refused(build: Build) -> None:
    with pytest.raises(UserError, match="sort"):
        build.latents("density; DROP TABLE latent")
    with pytest.raises(UserError, match="sort"):
        build.latents("lift")


def test_tokens(build: Build, made: Synthetic) -> None:
    found = build.find_tokens("self")
    assert found[0].piece == b"self"
    assert found[1].piece == b" self"
    assert all(b"self" in token.piece for token in found)
    assert build.find_tokens("") == build.find_tokens("nowhere in a vocabulary") == []
    token = int(made.tokens[0, 5])
    info = build.vocabulary
    assert info[token].n == (made.tokens[:, 1:] == token).sum()
    assert info[10**6].piece == b""


def test_latents_per_token(build: Build, made: Synthetic) -> None:
    l0 = (made.acts > 0).sum(axis=1).reshape(made.tokens.shape)
    hist = build.l0_hist()
    assert {row.l0: row.n for row in hist if row.n} == {
        int(v): int(n) for v, n in zip(*np.unique(l0[:, 1:], return_counts=True), strict=True)}
    assert sum(row.n_bos for row in hist) == len(made.tokens)
    for row in build.l0_positions():
        assert row.mean == pytest.approx(l0[:, row.position].mean())
        assert row.std == pytest.approx(l0[:, row.position].std(), abs=1e-6)
    most, fewest = build.l0_tokens(True, min_n=5), build.l0_tokens(False, min_n=5)
    assert most[0].mean >= most[-1].mean >= fewest[-1].mean >= fewest[0].mean
    assert all(token.n >= 5 for token in most)


def test_samples(build: Build, made: Synthetic) -> None:
    acts = made.acts.reshape(*made.tokens.shape, -1)
    samples = build.samples()
    assert samples
    for sample in samples:
        assert sample.tokens == made.tokens[sample.ctx].tolist()
        assert sample.l0 == (acts[sample.ctx] > 0).sum(axis=1).tolist()
    latents = build.sample_latents(samples[1].sample, 9)
    assert latents[0][1] == acts[samples[1].ctx, 9].max()
    assert len(latents) == samples[1].l0[9]
    assert build.sample_latents(99, 0) == []


@pytest.mark.parametrize("of", ["density", "cosine", "norm"])
def test_histograms_count_every_alive_latent_in_its_bin(build: Build, of: str) -> None:
    alive = [latent for i in range(build.n_latents) if not (latent := build.latent(i)).dead]
    values = {"density": [latent.density for latent in alive], "norm": [latent.encoder_norm for latent in alive],
              "cosine": [latent.neighbours[0][1] for latent in alive if latent.neighbours]}[of]
    bins = getattr(build, f"{of}_histogram")()
    last = max(high for _, high, _ in bins)
    for low, high, n in bins:
        assert n == sum(low <= v < high or high == last == v for v in values), (low, high)
    assert sum(n for _, _, n in bins) == len(values) > 100


def test_random_latents_are_alive_and_repeat_with_the_seed(build: Build) -> None:
    first = build.random_latents(10, seed=1)
    assert first == build.random_latents(10, seed=1) != build.random_latents(10, seed=2)
    assert all(not latent.dead for i in first if (latent := build.latent(i)))


def test_many_threads_get_right_answers(build: Build) -> None:
    expected = {i: build.latent(i) for i in range(40)}
    with ThreadPoolExecutor(8) as pool:
        for i, latent in zip([*range(40)] * 3, pool.map(build.latent, [*range(40)] * 3), strict=True):
            assert latent == expected[i]


def test_no_other_file_can_be_read(build: Build) -> None:
    with pytest.raises(duckdb.Error):
        build._rows("SELECT * FROM read_text('/etc/hostname')")
    with pytest.raises(duckdb.Error):
        build._rows("SET enable_external_access = true")


def test_the_same_file_twice(build: Build, made: Synthetic) -> None:
    other = Build.open(made.path)
    assert other.latent(4) == build.latent(4)
    other.close()
    assert build.latent(4) is not None


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.duckdb").write_text("no database")
    with pytest.raises(UserError, match="it is not a DuckDB file"):
        Build.open(tmp_path / "a.duckdb")
    duckdb.connect(str(tmp_path / "b.duckdb")).close()
    with pytest.raises(UserError, match="not a saescope build"):
        Build.open(tmp_path / "b.duckdb")
    with pytest.raises(UserError, match="cannot be opened"):
        Build.open(tmp_path / "none.duckdb")


def test_an_older_build_without_the_nearest_cosine_as_a_column_reads_the_list(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "old.duckdb"
    copyfile(build.path, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP INDEX latent_row")
        connection.execute("ALTER TABLE latent DROP COLUMN nearest_cos")
    old = Build.open(path)
    try:
        for descending in (False, True):
            assert old.latents("cosine", descending).rows == build.latents("cosine", descending).rows
        assert old.cosine_histogram() == build.cosine_histogram()
        assert [old.latent(i) for i in range(9)] == [build.latent(i) for i in range(9)]
    finally:
        old.close()


def test_another_version_of_the_tables_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE meta (key VARCHAR, value VARCHAR)")
        connection.execute("INSERT INTO meta VALUES ('schema_version', '99'), ('sae_id', '\"demo/x\"')")
    with pytest.raises(UserError, match="saescope index --sae demo/x"):
        Build.open(path)
