"""Builds of toy models and of the embedded model, each made once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sae.data.corpus import Corpus
from sae.lm.bridge import LanguageModel
from tests.toys import ToyModel, corpus_of, toy_corpus, toy_sae
from tests.unit.sae.index.dense import Case, SmoothModel, dense_case


@pytest.fixture(scope="package")
def long_corpus() -> Corpus:
    """Make contexts longer than the window that a page shows, and longer than the number of position bins."""
    return toy_corpus(24, 300, seed=3)


@pytest.fixture(scope="package", params=["batch_topk", "topk, layer norm", "long contexts", "language model"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, long_corpus: Corpus) -> Case:
    path = tmp_path_factory.mktemp("builds") / "b.duckdb"
    if request.param == "batch_topk":
        return dense_case(path, ToyModel(), toy_sae(), toy_corpus(90))
    if request.param == "topk, layer norm":
        return dense_case(path, SmoothModel(), toy_sae("topk", "layer_norm"), toy_corpus(70, seed=1))
    if request.param == "long contexts":
        return dense_case(path, ToyModel(), toy_sae(threshold=8.0), long_corpus)
    lm: LanguageModel = request.getfixturevalue("demo_lm")
    make = request.getfixturevalue("tiny_sae")
    ids = lm.encode(Path(json.__file__).read_text(encoding="utf-8"))[: 20 * 23]
    tokens = np.array(ids[: len(ids) // 23 * 23]).reshape(-1, 23)
    tokens = np.concatenate([np.zeros((len(tokens), 1), dtype=np.int64), tokens], axis=1)
    length = np.full(len(tokens), 24)
    length[3], tokens[3, 2:] = 2, 0
    sae = make("batch_topk", "layer_norm")
    sae.b_enc_L[5] = -1000.0  # never fires
    return dense_case(path, lm, sae, corpus_of(tokens, length))
