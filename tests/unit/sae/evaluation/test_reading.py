"""Tokens are read with their places, and halves share no document."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae.data.left_out import LeftOut
from sae.evaluation.reading import first_contexts, halves, read_tokens, stages


def silent(done: int, of: int) -> None: ...


@pytest.mark.parametrize("with_bos", [False, True])
def test_every_counted_token_is_read_once_with_its_place(subject_of: Any, tiny_sae: Any, with_bos: bool) -> None:
    subject = subject_of(tiny_sae(), [5, 0, 11, 7])
    corpus, seen = subject.corpus, []
    for batch in read_tokens(subject, subject.contexts, silent, max_tokens=64, with_bos=with_bos):
        for context, position, token, x_D in zip(
                batch.context_N.tolist(), batch.position_N.tolist(), batch.token_N.tolist(), batch.x_ND, strict=True):
            assert token == corpus.tokens[context, position]
            seen.append((context, position))
            row = torch.from_numpy(corpus.tokens[[context]].astype(np.int64))
            if position == 3:
                expected_D = subject.model.activations(row, subject.sae.hook)[0, 3]
                assert torch.allclose(x_D, expected_D, atol=1e-4)
    first = 0 if with_bos else 1
    assert seen == [(c, p) for c in (5, 0, 11, 7) for p in range(first, corpus.length[c])]


def test_tokens_that_training_left_out_are_not_read(subject_of: Any, tiny_sae: Any) -> None:
    sae = tiny_sae()
    subject = subject_of(sae, [0, 1])
    common = int(np.bincount(subject.corpus.tokens[[0, 1], 1:].reshape(-1)).argmax())
    sae.config["left_out"] = LeftOut(tokens=(common,)).record()
    read = torch.cat([batch.token_N for batch in read_tokens(subject, subject.contexts, silent)])
    assert common not in read
    assert len(read) == int((subject.corpus.tokens[[0, 1], 1:] != common).sum())


def test_halves_share_no_document_and_follow_from_the_seed(subject_of: Any, tiny_sae: Any) -> None:
    subject = subject_of(tiny_sae())
    a, b = halves(subject, subject.contexts)
    doc = subject.corpus.doc
    assert not set(doc[a]) & set(doc[b])
    assert sorted([*a, *b]) == sorted(subject.contexts)
    assert [half.tolist() for half in halves(subject, subject.contexts)] == [a.tolist(), b.tolist()]
    one = np.flatnonzero(doc == 1)
    a, b = halves(subject, one)
    assert sorted([*a, *b]) == one.tolist()
    assert abs(len(a) - len(b)) <= 1


def test_first_contexts_hold_the_tokens_asked_for(subject_of: Any, tiny_sae: Any) -> None:
    subject = subject_of(tiny_sae(), [3, 1, 2])
    assert first_contexts(subject, 1).tolist() == [3]
    assert first_contexts(subject, 32).tolist() == [3, 1]
    assert first_contexts(subject, 10**6).tolist() == [3, 1, 2]


def test_stages_are_parts_of_one_whole() -> None:
    seen: list[tuple[int, int]] = []
    first, second = stages(lambda *at: seen.append(at), 1, 3)
    first(5, 10)
    second(0, 7)
    second(7, 7)
    assert seen == [(125, 1000), (250, 1000), (1000, 1000)]
