"""The tables of a build: their columns, their order, and what ends their making."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae.index.build import build
from sae.index.encoders import EncoderPool
from sae.index.scales import make_scales
from sae.index.shard import Shard
from sae.index.tables import make_tables
from sae.lm.logit_map import logit_map
from sae.lm.sites import NO_LOGITS
from sae.specs.registry import IndexSettings
from sae.store.schema import TABLES
from tests.toys import ToyModel, toy_corpus, toy_sae
from tests.unit.sae.index.dense import SETTINGS


@pytest.fixture(scope="module")
def small() -> tuple[Any, ...]:
    """Return what the tables of a small build are made from."""
    lm, sae, corpus = ToyModel(), toy_sae(), toy_corpus(30)
    contexts, settings = np.arange(30), IndexSettings(index_tokens=1_000)
    passes = EncoderPool(lm, sae, corpus).read(contexts)  # type: ignore[arg-type]
    scales, _ = make_scales(lm, sae, corpus, passes, settings)  # type: ignore[arg-type]
    return lm, sae, corpus, contexts, Shard.of(scales, passes), scales, settings


def test_the_rows_of_every_table_are_in_its_order(tmp_path: Path) -> None:
    build(ToyModel(), toy_sae(), toy_corpus(60), SETTINGS, tmp_path / "b.duckdb", provenance={})  # type: ignore[arg-type]
    with duckdb.connect(str(tmp_path / "b.duckdb"), read_only=True) as con:
        for name, (_, order) in TABLES.items():
            query = (f"SELECT coalesce(bool_and(n = row), true) FROM (SELECT rowid AS row,"
                     f" row_number() OVER (ORDER BY {order}) - 1 AS n FROM {name})")
            assert con.execute(query).fetchone() == (True,), name


def columns_of(name: str) -> list[str]:
    return [part.split()[0] for part in TABLES[name][0].split(",")]


def test_tables_have_the_columns_of_the_schema(small: tuple[Any, ...]) -> None:
    made: dict[str, list[str]] = {}
    meta = make_tables(*small, lambda name, table: made.update({name: table.schema.names}))
    imported_only = {"latent_edges", "explanation"}
    assert set(made) == set(TABLES) - {"meta"} - imported_only
    for name, columns in made.items():
        assert sorted(columns) == sorted(set(columns_of(name)) - {"nearest_cos"}), name  # the writer adds it
    assert set(meta) == {"logit_edges", "map", "bos_l0", "median_resid_norm", "company_tokens"}


@pytest.mark.parametrize("kind", NO_LOGITS)
def test_latents_of_a_site_without_logits_have_none_and_the_build_says_why(
    small: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    lm, sae, *rest = small
    monkeypatch.setattr(lm, "unembedding", lambda hook: logit_map(lm, hook))
    hooked = copy.copy(sae)
    hooked.config = {**sae.config, "site": {"layer": 1, "hook": f"blocks.1.{kind}"}}
    made: dict[str, Any] = {}
    meta = make_tables(lm, hooked, *rest, made.__setitem__)
    assert meta["logit_edges"] is None
    assert meta["no_logits"] == f"directions at {kind} have no logits of their own, because {NO_LOGITS[kind]}"
    assert made["latent"]["logit_std"].null_count == sae.n_latents


def test_what_check_raises_ends_it_before_the_table_of_latents(small: tuple[Any, ...]) -> None:
    made: list[str] = []

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_tables(*small, lambda name, table: made.append(name), check=stop)
    assert "latent" not in made
