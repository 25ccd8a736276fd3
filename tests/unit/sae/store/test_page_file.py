"""The page file repeats the build's facts, with the contexts cut around their peaks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.store import page_file
from sae.store.build import Build
from sae.store.page_file import WINDOW, LatentPageFile, page_file_path, write_page_file
from sae.store.records import Context, latent_of
from sae.store.schema import TABLES, TOP_BAND
from sae.store.writer import write_contexts
from tests.builds import Synthetic, make_build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_build(tmp_path_factory.mktemp("found") / "b.duckdb", n_latents=60, n_contexts=24)


def cut(context: Context) -> Context:
    low, high = max(context.peak - WINDOW[0], 0), context.peak + WINDOW[1] + 1
    start = None if context.start is None else context.start + low
    return replace(context, start=start, peak=context.peak - low, tokens=context.tokens[low:high],
                   acts=context.acts[low:high])


def test_the_file_says_what_the_build_says(made: Synthetic) -> None:
    assert page_file_path(made.path).exists()
    build = Build.open(made.path)
    for latent in range(build.n_latents):
        (row,) = build._rows(f"SELECT * FROM {build._latents} WHERE latent = ?", [latent])
        assert build.latent(latent) == latent_of(row, build.meta.get("company_tokens"))
        assert build.windows(latent) == [cut(context) for context in build.contexts(latent)]
    assert build.latent(build.n_latents) is None
    best = {latent: build.contexts(latent)[:1] for latent in range(build.n_latents)}
    assert build.snippets(range(build.n_latents + 3)) == {
        latent: cut(context) for latent, found in best.items() for context in found if context.band == TOP_BAND} != {}
    build.close()


@pytest.mark.parametrize("damage", [
    None, b"", lambda content: content[:100], lambda content: content[: len(content) // 2],
    lambda content: content[:-20], lambda content: content.replace(b"made_of", b"mode_of")])
def test_a_file_that_is_missing_damaged_or_of_another_build_is_made_again(
    made: Synthetic, tmp_path: Path, damage: Any
) -> None:
    copy = tmp_path / made.path.name
    shutil.copy(made.path, copy)
    content = page_file_path(made.path).read_bytes()
    if damage is not None:
        page_file_path(copy).write_bytes(damage if isinstance(damage, bytes) else damage(content))
    build = Build.open(copy)
    assert build.latent(3) is not None
    build.close()
    assert LatentPageFile.open(page_file_path(copy), build.id) is not None
    assert LatentPageFile.open(page_file_path(copy), f"not {build.id}") is None


def test_where_nothing_can_be_written_it_is_made_elsewhere(
    made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / made.path.name
    shutil.copy(made.path, copy)

    @contextmanager
    def read_only(path: Path) -> Iterator[Path]:
        raise PermissionError(path)
        yield path

    monkeypatch.setattr(page_file, "atomic_write", read_only)
    build = Build.open(copy)
    assert build.windows(3) == [cut(context) for context in build.contexts(3)]
    build.close()
    assert list(tmp_path.iterdir()) == [copy]


@st.composite
def contexts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return rows of `context` like an imported dashboard's, with latents left out, and starts and documents unknown.
    """
    rows = []
    for latent in sorted(draw(st.sets(st.integers(0, 9), max_size=4))):
        for rank in range(draw(st.integers(0, 3))):
            n = draw(st.integers(1, 120))
            pos = sorted(draw(st.sets(st.integers(0, n - 1), max_size=8)))
            rows.append({
                "latent": latent, "band": 0, "rank": rank, "act": 1.5, "ctx": draw(st.integers(0, 9)),
                "doc": draw(st.sampled_from([None, 3])), "doc_offset": 0, "start": draw(st.sampled_from([None, 0, 9])),
                "peak": draw(st.integers(0, n - 1)), "tokens": draw(st.lists(
                    st.integers(0, 2**17), min_size=n, max_size=n)),
                "pos": pos, "val": [p + 0.5 for p in pos], "duplicates": 1})
    return rows


@settings(max_examples=40, deadline=None)
@given(contexts(), st.sets(st.integers(0, 9)))
def test_any_contexts_are_cut_around_their_peaks(rows: list[dict[str, Any]], others: set[int]) -> None:
    numbers = sorted({row["latent"] for row in rows} | others)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as con:
        con.execute("ATTACH ':memory:' AS build")
        for name, (columns, _) in TABLES.items():
            con.execute(f"CREATE TABLE build.{name} ({columns})")
        for table, column, values in (("latent", "latent", numbers), ("token", "token", [2**17])):
            con.executemany(f"INSERT INTO build.{table} ({column}) VALUES (?)", [[value] for value in values] or [[0]])
        numbers = numbers or [0]
        if rows:
            con.register("rows", pa.Table.from_pylist(rows))
            write_contexts(con, "rows")
        path = Path(folder) / "b.arrow"
        write_page_file(con, path, "this")
        found = LatentPageFile.open(path, "this")
        assert found is not None
        first = []
        for latent in range(11):
            assert ((found.latent(latent) or {}).get("latent") == latent) == (latent in numbers)
            got = found.contexts(latent)
            assert got == [cut_row(row) for row in rows if row["latent"] == latent]
            first += got[:1]
        assert found.first_contexts(range(11)) == first
        some = [9, *sorted(others), -1, 4000]
        assert found.latents(some, ["latent", "dead"]) == [
            {name: (found.latent(latent) or {})[name] for name in ("latent", "dead")}
            for latent in sorted({*some} & {*numbers})]


def cut_row(row: dict[str, Any]) -> dict[str, Any]:
    low, high = max(row["peak"] - WINDOW[0], 0), row["peak"] + WINDOW[1] + 1
    fired = [(p - low, v) for p, v in zip(row["pos"], row["val"], strict=True) if low <= p < high]
    return {**row, "start": None if row["start"] is None else row["start"] + low, "peak": row["peak"] - low,
            "tokens": row["tokens"][low:high], "pos": [p for p, _ in fired], "val": [v for _, v in fired]}


def test_shares_from_a_sample_have_an_interval(made: Synthetic) -> None:
    build = Build.open(made.path)
    (found,) = build._rows(f"SELECT * FROM {build._latents} WHERE latent = 0", [])
    row = found | {
        "n_tokens": 65, "together": [3], "together_given": [0.5], "together_lift": [2.0], "together_phi": [0.1]}
    (estimated,) = latent_of(dict(row), 64).together
    half = 1.959964 / 2 / (64 + 1.959964**2) ** 0.5  # Wilson's interval of a half
    assert estimated.given_interval == pytest.approx((0.5 - half, 0.5 + half))
    # φ and lift follow from the share and from densities that are exact: here of the other latent 0.25.
    slope = estimated.phi / 0.25
    assert estimated.phi_interval == pytest.approx(((0.25 - half) * slope, (0.25 + half) * slope))
    assert estimated.lift_interval == pytest.approx(((0.5 - half) / 0.25, (0.5 + half) / 0.25))
    for n_tokens, sampled in ((64, 64), (65, None), (None, 64)):
        (exact,) = latent_of(row | {"n_tokens": n_tokens}, sampled).together
        assert exact.given_interval is None
    # Of the latents that fire only when this one does, each share was sampled among the other's firings.
    row |= {"implied_by": [3, 4], "implied_by_given": [0.95, 1.0], "implied_by_lift": [9.0, 9.0],
            "implied_by_phi": [0.5, 0.5]}
    often, seldom = latent_of(dict(row), 64, {3: 65, 4: 64}.get).implied_by
    assert often.given_interval is not None
    assert often.given_interval[0] < 0.95 < often.given_interval[1]
    assert (seldom.given_interval, seldom.phi_interval, seldom.lift_interval) == (None, None, None)


def test_a_build_knows_the_firings_of_the_other_latents(made: Synthetic) -> None:
    build = Build.open(made.path)
    build.meta["company_tokens"] = 1  # every share is then an estimate
    pairs = [one for i in range(build.n_latents) if (found := build.latent(i)) for one in found.implied_by]
    assert all((one.given_interval is not None) == ((build.facts(one.latent, "n_tokens")["n_tokens"] or 0) > 1)
               for one in pairs)
