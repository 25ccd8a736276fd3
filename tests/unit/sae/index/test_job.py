"""A build in parts has the rows of a build in one part, whoever makes the parts, and however often they are killed."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.data.left_out import LeftOut
from sae.errors import Interrupted, UserError
from sae.index import scan
from sae.index.build import build, build_part, merge_parts, part_path
from sae.index.job import IndexJob, IndexPlan
from sae.specs.registry import IndexSettings
from tests.toys import ToyModel, corpus_of, toy_corpus, toy_sae
from tests.unit.sae.index.dense import SETTINGS
from tests.unit.sae.index.test_scan import everything

WORDS = {"run": "r", "command": "c"}


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), n_contexts=st.integers(4, 150), n_parts=st.integers(2, 6),
       skip=st.sampled_from(["", "3,7"]))
def test_the_rows_do_not_depend_on_the_parts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_contexts: int, n_parts: int, skip: str
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    lm, sae, corpus = ToyModel(seed), toy_sae(seed=seed % 1000), toy_corpus(n_contexts, seed=seed)
    chosen = IndexSettings(**{**SETTINGS.model_dump(), "skip_tokens": skip})
    order = list(np.random.default_rng(seed).permutation(n_parts) + 1)
    with mock.patch.object(scan, "SHARD_TOKENS", 256):  # several rounds
        build(lm, sae, corpus, chosen, folder / "b.duckdb", provenance=WORDS)  # type: ignore[arg-type]
        for number in order:
            build_part(lm, sae, corpus, chosen, folder / "parts", int(number), n_parts)  # type: ignore[arg-type]
        (folder / "merged").mkdir()
        merged = folder / "merged" / "b.duckdb"
        merge_parts(lm, sae, corpus, chosen, merged, folder / "parts", n_parts, provenance=WORDS)  # type: ignore[arg-type]
    assert everything(merged) == everything(folder / "b.duckdb")


def test_a_killed_part_resumes_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(300)
    with mock.patch.object(scan, "SHARD_TOKENS", 256), mock.patch.object(scan, "SAVE_S", 0):
        def run(number: int, after: int = 10**9) -> None:
            seen = 0

            def update(done: int, total: int) -> None:
                nonlocal seen
                seen += 1
                if seen > after:
                    raise Interrupted

            build_part(lm, sae, corpus, SETTINGS, tmp_path / "parts", number, 2,  # type: ignore[arg-type]
                       checkpoint=tmp_path / f"{number}.pt", update=update)

        with pytest.raises(Interrupted):
            run(1, after=3)
        assert (tmp_path / "1.pt").exists()
        with pytest.raises(UserError, match="part 1 of 2 is missing"):
            merge_parts(lm, sae, corpus, SETTINGS, tmp_path / "x.duckdb", tmp_path / "parts", 2,  # type: ignore[arg-type]
                        provenance=WORDS)
        assert not (tmp_path / "x.duckdb").exists()
        run(1)
        run(2)
        read = lm.tokens_read
        run(2)
        assert lm.tokens_read == read, "nothing is read again"
        build(lm, sae, corpus, SETTINGS, tmp_path / "b.duckdb", provenance=WORDS)  # type: ignore[arg-type]
        (tmp_path / "merged").mkdir()
        merge_parts(lm, sae, corpus, SETTINGS, tmp_path / "merged" / "b.duckdb", tmp_path / "parts", 2,  # type: ignore[arg-type]
                    provenance=WORDS)
    assert everything(tmp_path / "merged" / "b.duckdb") == everything(tmp_path / "b.duckdb")


def test_the_first_plan_holds_for_everybody(tmp_path: Path) -> None:
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(40)
    first = IndexJob.open(lm, sae, corpus, SETTINGS).plan  # type: ignore[arg-type]
    other = IndexPlan(first.scales, first.hist_low * 2, LeftOut(5.0, (1, 2), 10.0), first.per_round + 1)
    path = tmp_path / "parts" / "plan.json"
    assert IndexPlan.read(path) is None
    assert other.write_once(path) == other
    assert first.write_once(path) == other
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]
    build_part(lm, sae, corpus, SETTINGS, path.parent, 1, 1)  # type: ignore[arg-type]
    assert part_path(path.parent, 1, 1).exists()


def test_more_parts_than_text(tmp_path: Path) -> None:
    lm, sae, corpus = ToyModel(), toy_sae(), corpus_of(np.array([[0, 1, 2, 3]]), np.array([4]))
    for number in (3, 2, 1):
        build_part(lm, sae, corpus, SETTINGS, tmp_path / "parts", number, 3)  # type: ignore[arg-type]
    merge_parts(lm, sae, corpus, SETTINGS, tmp_path / "b.duckdb", tmp_path / "parts", 3, provenance=WORDS)  # type: ignore[arg-type]
    assert (tmp_path / "b.duckdb").exists()
