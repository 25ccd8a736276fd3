"""Tests of bits per byte against values computed by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.demo.score import score_contexts, score_stream

V = 16
documents = st.lists(st.lists(st.integers(1, V - 1), min_size=1, max_size=30), min_size=1, max_size=5)


def uniform(tokens_PS: Tensor) -> Tensor:
    return torch.zeros(*tokens_PS.shape, V)


def bigram(tokens_PS: Tensor) -> Tensor:
    """Return logits that depend only on the last token."""
    return torch.sin(torch.arange(V * V).reshape(V, V).float())[tokens_PS]


@given(documents, st.integers(3, 12))
def test_a_model_that_knows_nothing_needs_log2_v_bits_a_token(texts: list[list[int]], context: int) -> None:
    n = sum(map(len, texts))
    score = score_contexts(uniform, texts, 2 * n, context, 0)
    assert score.tokens == n  # every token is predicted, once
    assert score.bits_per_byte == pytest.approx(math.log2(V) / 2)


@given(documents, st.integers(3, 12))
def test_contexts_score_each_token_given_the_one_before(texts: list[list[int]], context: int) -> None:
    log_p = bigram(torch.arange(V)).log_softmax(-1).double()
    nats = -sum(log_p[0 if i % (context - 1) == 0 else ids[i - 1], token].item()
                for ids in texts for i, token in enumerate(ids))
    score = score_contexts(bigram, texts, 100, context, 0)
    assert score.nats_per_token * score.tokens == pytest.approx(nats, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / 100, rel=1e-5)


def test_a_stream_is_read_in_windows_and_its_rest_left_out() -> None:
    stream = [0, 1, 2, 3, 4, 0, 5, 6, 7, 8, 9]
    log_p = bigram(torch.arange(V)).log_softmax(-1).double()
    nats = -sum(log_p[a, b].item() for a, b in itertools.pairwise(stream[:9]))
    score = score_stream(bigram, [[1, 2, 3, 4], [5, 6, 7, 8, 9]], 110, 4, 0)
    assert (score.tokens, score.bytes) == (8, 80)
    assert score.nats_per_token == pytest.approx(nats / 8, rel=1e-5)


def test_no_text_has_no_score() -> None:
    with pytest.raises(ValueError, match="no held-out text"):
        score_contexts(uniform, [], 0, 8, 0)
