"""A build made in halves, interrupted and resumed, or from a tiny text: the rows are the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from sae.index import scan as scan_module
from sae.index.build import build, contexts_to_read
from sae.index.encoders import EncoderPool
from sae.index.sample_tables import SAMPLES
from sae.index.scales import IndexScales, make_scales
from sae.index.scan import scan
from sae.index.shard import Shard
from sae.index.tables import make_tables
from sae.specs.registry import IndexSettings
from sae.store.schema import TABLES
from sae.store.writer import meta_table, new_build
from sae.workspace.checkpoint import Saver
from tests.toys import ToyModel, corpus_of, toy_corpus, toy_sae
from tests.unit.sae.index.dense import SETTINGS
from tests.unit.sae.index.random_text import same


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, without the time and duration of the build."""
    with duckdb.connect(str(path), read_only=True) as con:
        tables = {name: con.execute(f"FROM {name} ORDER BY {order}").fetchall()
                  for name, (_, order) in TABLES.items()}
    for name, rows in tables.items():  # NaN is not equal to itself
        tables[name] = [tuple(None if value != value else value for value in row) for row in rows]
    tables["meta"] = [row for row in tables["meta"] if row[0] not in ("created", "seconds")]
    return tables


def scaled(
    lm: ToyModel, sae: Any, corpus: Any, contexts: np.ndarray, settings: IndexSettings
) -> tuple[EncoderPool, IndexScales]:
    pool = EncoderPool(lm, sae, corpus)  # type: ignore[arg-type]
    scales, _ = make_scales(lm, sae, corpus, pool.read(contexts[:SAMPLES]), settings)  # type: ignore[arg-type]
    return pool, scales


def shard_of(pool: EncoderPool, scales: IndexScales, contexts: np.ndarray) -> Shard:
    return Shard.of(scales, pool.read(contexts))


def test_two_halves_merged_are_the_same_build(tmp_path: Path) -> None:
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(90)
    contexts = contexts_to_read(corpus, 10_000)
    pool, scales = scaled(lm, sae, corpus, contexts, SETTINGS)
    whole = shard_of(pool, scales, contexts)
    half = len(contexts) // 2
    halves = [shard_of(pool, scales, part) for part in (contexts[half:], contexts[:half])]
    merged = halves[0].merge(halves[1], scales)
    assert same(merged.state(), whole.state())
    for name, shard in (("whole", whole), ("merged", merged)):
        with new_build(tmp_path / f"{name}.duckdb", sort=False) as write:
            make_tables(lm, sae, corpus, contexts, shard, scales, SETTINGS, write)  # type: ignore[arg-type]
            write("meta", meta_table({"build_id": "b"}))
    assert everything(tmp_path / "whole.duckdb") == everything(tmp_path / "merged.duckdb")


class Stopped(Exception):
    pass


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("stop_at", "models"), [(1, 1), (700, 1), (1100, 1), (1, 2), (900, 2), (1100, 3)])
def test_interrupted_and_resumed_is_the_same_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, models: int
) -> None:
    monkeypatch.setattr(scan_module, "SHARD_TOKENS", 16 * 9)
    monkeypatch.setattr(scan_module, "SAVE_S", 0.0)
    sae, corpus = toy_sae(), toy_corpus(150)

    def make(path: Path, lm: ToyModel, update: Any = lambda done, total: None, checkpoint: Path | None = None) -> None:
        build(lm, sae, corpus, SETTINGS, path, provenance={}, update=update, checkpoint=checkpoint)  # type: ignore[arg-type]

    first, checkpoint = ToyModel(), tmp_path / "ckpt" / "index.pt"
    with threads(1):
        make(tmp_path / "a" / "b.duckdb", first)
    reported: list[int] = []

    def stop(done: int, total: int) -> None:
        reported.append(done)
        if done >= stop_at:
            raise Stopped

    with threads(models), pytest.raises(Stopped):
        make(tmp_path / "c" / "b.duckdb", ToyModel(), stop, checkpoint)
    assert not (tmp_path / "c").exists()
    resumed = ToyModel()
    with threads(models):
        make(tmp_path / "c" / "b.duckdb", resumed, lambda done, total: reported.append(done), checkpoint)
    assert reported == sorted(reported) or stop_at in range(reported[-1])
    rounds = contexts_to_read(corpus, SETTINGS.index_tokens)[: SAMPLES + 2 * 9 * models]
    if stop_at > (corpus.length[rounds] - 1).sum():
        assert resumed.tokens_read < first.tokens_read  # finished shards were not read again
    assert everything(tmp_path / "c" / "b.duckdb") == everything(tmp_path / "a" / "b.duckdb")


def test_a_short_scan_saves_no_checkpoint(tmp_path: Path) -> None:
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(40)
    contexts = contexts_to_read(corpus, 10_000)
    pool, scales = scaled(lm, sae, corpus, contexts, SETTINGS)
    with Saver(tmp_path / "i.pt") as saver:
        scan(pool, corpus, contexts, scales, saver=saver)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_scales_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "SAVE_S", 0.0)
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(40)
    contexts = contexts_to_read(corpus, 10_000)
    for settings in (SETTINGS, IndexSettings(index_tokens=10_000, top_contexts=5)):
        pool, scales = scaled(lm, sae, corpus, contexts, settings)
        with Saver(tmp_path / "i.pt") as saver:
            shard = scan(pool, corpus, contexts, scales, saver=saver)
        assert same(shard.state(), scan(pool, corpus, contexts, scales).state())


def test_a_build_is_never_overwritten(tmp_path: Path) -> None:
    lm, corpus, path = ToyModel(), toy_corpus(20), tmp_path / "b.duckdb"
    build(lm, toy_sae(), corpus, SETTINGS, path, provenance={})  # type: ignore[arg-type]
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="immutable"):
        build(lm, toy_sae(seed=1), corpus, SETTINGS, path, provenance={})  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.arrow", "b.duckdb"]


def test_a_failure_while_writing_leaves_no_build(tmp_path: Path) -> None:
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(20)
    contexts = contexts_to_read(corpus, 10_000)
    pool, scales = scaled(lm, sae, corpus, contexts, SETTINGS)
    shard = shard_of(pool, scales, contexts)

    def fail() -> None:
        with new_build(tmp_path / "b.duckdb", sort=False) as write:
            make_tables(lm, sae, corpus, contexts, shard, scales, SETTINGS, write)  # type: ignore[arg-type]
            write("latent_edges", pa.table({"no such column": [1]}))

    with pytest.raises(duckdb.Error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_map_to_the_logits_is_made_by_the_models_own_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs the model, and the tables' jobs read texts with the same model in other threads."""
    threads: list[int] = []
    right = ToyModel.unembedding

    def unembedding(self: ToyModel, hook: str = "") -> torch.Tensor:
        threads.append(threading.get_ident())
        return right(self, hook)

    monkeypatch.setattr(ToyModel, "unembedding", unembedding)
    build(ToyModel(), toy_sae(), toy_corpus(20), SETTINGS, tmp_path / "b.duckdb", provenance={})  # type: ignore[arg-type]
    assert threads == [threading.get_ident()]


def test_contexts_of_one_text_token_and_an_sae_that_never_fires(tmp_path: Path) -> None:
    tokens = np.zeros((5, 8), dtype=np.int64)
    tokens[:, 1] = [3, 4, 3, 9, 3]
    corpus = corpus_of(tokens, np.full(5, 2))
    sae = toy_sae(threshold=1e6)
    build(ToyModel(), sae, corpus, SETTINGS, tmp_path / "b.duckdb", provenance={})  # type: ignore[arg-type]
    with duckdb.connect(str(tmp_path / "b.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*), sum(n_tokens), bool_and(dead) FROM latent").fetchone() == (24, 0, True)
        assert con.execute("SELECT count(*) FROM context").fetchone() == (0,)
        assert con.execute("FROM l0_hist").fetchall() == [(0, 5, 5)]
        assert con.execute("SELECT token, n FROM l0_token ORDER BY token").fetchall() == [(3, 3), (4, 1), (9, 1)]
        assert con.execute("SELECT count(*) FROM sample").fetchone() == (5,)
        assert con.execute("SELECT neighbours FROM latent LIMIT 1").fetchone() == ([],)


def test_about_as_many_tokens_are_read_as_were_asked_for() -> None:
    corpus = toy_corpus(60)
    for wanted in (1, 100, 400):
        contexts = contexts_to_read(corpus, wanted)
        counted = (corpus.length[contexts] - 1).cumsum()
        assert counted[-1] >= wanted
        assert len(counted) == 1 or counted[-2] < wanted
        assert len(set(contexts)) == len(contexts)
    assert sorted(contexts_to_read(corpus, 10**9)) == list(range(60))
