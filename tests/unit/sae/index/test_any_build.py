"""Every number of a build, for any small SAE and text: ties, dead latents, contexts of BOS alone or of one token."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sae.index import encoders
from tests.toys import ToyModel, V, corpus_of, toy_sae
from tests.unit.sae.index import test_build, test_latent_table
from tests.unit.sae.index.dense import Case, SmoothModel, dense_case

CHECKS = [check for module in (test_build, test_latent_table) for name, check in vars(module).items()
          if name.startswith("test_") and check.__code__.co_varnames[: check.__code__.co_argcount] == ("case",)]


def any_case(folder: Path, seed: int) -> Case:
    """Make a random SAE and a random text.  TopK gets a model without ties, since no rule settles them."""
    rng = np.random.default_rng(seed)
    n_contexts, context_length = int(rng.integers(1, 40)), int(rng.integers(2, 14))
    tokens = rng.integers(1, rng.integers(2, V + 1), (n_contexts, context_length))
    length = rng.integers(1, context_length + 1, n_contexts)  # 1: BOS alone
    length[0] = max(length[0], 2)
    tokens[:, 0] = 0
    tokens[np.arange(context_length) >= length[:, None]] = 0
    architecture = str(rng.choice(["batch_topk", "topk"]))
    sae = toy_sae(architecture, str(rng.choice(["none", "layer_norm"])), n_latents=int(rng.integers(8, 33)),
                  k=int(rng.integers(1, 5)), seed=seed, threshold=float(rng.choice([0.0, 2.0, 5.0, 9.0])))
    lm = ToyModel(seed) if architecture == "batch_topk" else SmoothModel()
    corpus = corpus_of(tokens, length)
    one_token = replace(corpus, doc=np.arange(n_contexts, dtype=np.int32), offset=np.zeros(n_contexts, dtype=np.int64),
                        documents=[f"document {i}" for i in range(n_contexts)])
    case = dense_case(folder / "b.duckdb", lm, sae, one_token if rng.random() < 0.5 else corpus)
    case.small = True
    return case


def test_there_are_checks() -> None:
    assert len(CHECKS) >= 16


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
@example(1682)  # a weak latent next to strong ones, with equal activations: its deviation is 0
@example(8504218)  # the text has a single counted token
def test_every_number_of_any_build(seed: int) -> None:
    # One encoder with all threads: more encoders would split the products elsewhere, and the last bits are compared.
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(encoders, "MAX_THREADS", 1):
        case = any_case(Path(folder), seed)
        for check in CHECKS:
            check(case)
        case.con.close()
