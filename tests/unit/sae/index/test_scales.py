"""Scales that all shards of a build share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from sae.index.encoders import EncoderPool
from sae.index.scales import make_scales
from sae.specs.registry import IndexSettings
from sae.store.schema import HIST_BINS
from tests.toys import ToyModel, corpus_of, toy_corpus, toy_sae


def test_a_pass_of_contexts_without_text_is_a_pass() -> None:
    tokens = np.array([[0, 1, 2, 3]] + [[0, 0, 0, 0]] * 5)
    corpus = corpus_of(tokens, np.array([4, 1, 1, 1, 1, 1]))
    pool = EncoderPool(ToyModel(0), toy_sae("topk", "none"), corpus)  # type: ignore[arg-type]
    scales, _ = make_scales(ToyModel(0), toy_sae("topk", "none"), corpus,  # type: ignore[arg-type]
                           pool.read(np.arange(1, 6)), IndexSettings())
    assert scales.norm_unit > 0


def test_scales_are_above_everything_that_was_read() -> None:
    corpus, sae = toy_corpus(20), toy_sae()
    passes = EncoderPool(ToyModel(), sae, corpus).read(np.arange(12), bos=True)  # type: ignore[arg-type]
    scales, low = make_scales(ToyModel(), sae, corpus, passes, IndexSettings())  # type: ignore[arg-type]
    values = torch.cat([one.firings.value_N[one.firings.position_N > 0] for one in passes])
    norms = torch.cat([one.tokens.x_BD[one.tokens.position_B > 0].norm(dim=1) for one in passes])
    edges = [low, *scales.hist_edges]
    assert edges == sorted(set(edges))
    assert len(edges) == HIST_BINS
    assert low < values.min()
    assert values.max() <= scales.unit / 2
    assert scales.norm_unit / 2 < norms.max() <= scales.norm_unit
    ratios = [high / low for low, high in pairwise(edges)]
    assert max(ratios) < min(ratios) * (1 + 1e-9)  # log-spaced
    assert torch.bucketize(values, scales.edges).max() < scales.n_bins
