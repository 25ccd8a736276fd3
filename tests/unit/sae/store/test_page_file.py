"""The file beside a build says what the build says, with the contexts cut around their peaks."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.store.build import Build
from sae.store.page_file import WINDOW, LatentPageFile, glance_path, write_page_file
from sae.store.records import Context
from sae.store.schema import TABLES
from sae.store.writer import write_contexts
from tests.builds import Synthetic, make_build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_build(tmp_path_factory.mktemp("glance") / "b.duckdb", n_latents=60, n_contexts=24)


@pytest.fixture(scope="module")
def alone(made: Synthetic) -> Path:
    """The same build without the file beside it."""
    copy = made.path.parent / "alone" / made.path.name
    copy.parent.mkdir()
    shutil.copy(made.path, copy)
    return copy


def cut(context: Context) -> Context:
    low, high = max(context.peak - WINDOW[0], 0), context.peak + WINDOW[1] + 1
    start = None if context.start is None else context.start + low
    return replace(context, start=start, peak=context.peak - low, tokens=context.tokens[low:high],
                   acts=context.acts[low:high])


def test_with_the_file_and_without_it_a_build_answers_the_same(made: Synthetic, alone: Path) -> None:
    build, bare = Build.open(made.path), Build.open(alone)
    assert glance_path(made.path).exists()
    assert not glance_path(alone).exists()
    for latent in (*range(build.n_latents), build.n_latents):
        assert build.latent(latent) == bare.latent(latent)
        assert build.contexts(latent) == bare.contexts(latent) == bare.windows(latent)
        assert build.windows(latent) == [cut(context) for context in bare.contexts(latent)]
    everything = range(build.n_latents + 3)
    assert build.snippets(everything) == {i: cut(context) for i, context in bare.snippets(everything).items()} != {}
    build.close()
    bare.close()


def test_a_file_of_another_build_or_a_damaged_one_is_passed_over(made: Synthetic, alone: Path, tmp_path: Path) -> None:
    build = Build.open(alone)
    assert LatentPageFile.open(made.path, build.id) is not None
    assert LatentPageFile.open(made.path, f"not {build.id}") is None
    broken = tmp_path / made.path.name
    content = glance_path(made.path).read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2], content[:-20]):
        glance_path(broken).write_bytes(damaged)
        assert LatentPageFile.open(broken, build.id) is None
    build.close()


@st.composite
def contexts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of `context` as an imported dashboard may have them, latents left out, starts and documents unknown."""
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
        path = Path(folder) / "b.duckdb"
        write_page_file(con, glance_path(path), "this")
        glance = LatentPageFile.open(path, "this")
        assert glance is not None
        for latent in range(11):
            assert ((glance.latent(latent) or {}).get("latent") == latent) == (latent in numbers)
            got = glance.contexts(latent)
            assert got == [cut_row(row) for row in rows if row["latent"] == latent]
            assert glance.contexts(latent, 1) == got[:1]


def cut_row(row: dict[str, Any]) -> dict[str, Any]:
    low, high = max(row["peak"] - WINDOW[0], 0), row["peak"] + WINDOW[1] + 1
    fired = [(p - low, v) for p, v in zip(row["pos"], row["val"], strict=True) if low <= p < high]
    return {**row, "start": None if row["start"] is None else row["start"] + low, "peak": row["peak"] - low,
            "tokens": row["tokens"][low:high], "pos": [p for p, _ in fired], "val": [v for _, v in fired]}
