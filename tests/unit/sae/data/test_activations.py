"""The stream hands out all of the text's activations, shuffled, and the same after a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.data.activations import ActivationStream, context_batches
from sae.data.corpus import Corpus
from sae.errors import Cancelled, UserError
from sae.lm.sites import resid_post
from tests.toys import ToyModel, corpus_of, toy_corpus


class Echo(ToyModel):
    """A model whose residual stream is the token's number and position, so that every activation is unique."""

    info = ToyModel.info.__class__("echo", "echo", "echo", True, 1, 2, 64, 1 << 16)
    pause_s = 0.0
    reading = False

    def activations(self, tokens_PS: Tensor, hook: str, *, autocast: bool = False) -> Tensor:
        self.reading = True
        time.sleep(self.pause_s)
        self.tokens_read += tokens_PS.numel()
        out = torch.stack([tokens_PS, torch.arange(tokens_PS.shape[1]).expand_as(tokens_PS)], dim=2).float()
        self.reading = False
        return out


def numbered(lengths: list[int], context_length: int = 9) -> Corpus:
    """Return contexts of the given lengths in which no two positions have the same token, padding included."""
    tokens = np.arange(len(lengths) * context_length).reshape(len(lengths), context_length)
    return corpus_of(tokens, np.array(lengths), np.arange(len(lengths)) % 5 == 4)


def text_in_order(corpus: Corpus, seed: int, include_bos: bool) -> Iterator[int]:
    """Yield the tokens of the training contexts, epoch after epoch, endlessly."""
    epoch = 0
    while True:
        for row in corpus.contexts("train", seed + epoch):
            yield from corpus.tokens[row, (0 if include_bos else 1) : corpus.length[row]].tolist()
        epoch += 1


def stream_over(corpus: Corpus, **values: Any) -> ActivationStream:
    options: dict[str, Any] = {"batch_tokens": 4, "chunk_tokens": 12, "dtype": torch.float32, **values}
    return ActivationStream(Echo(), corpus, resid_post(0), **options)  # type: ignore[arg-type]


corpora = st.lists(st.integers(2, 9), min_size=1, max_size=12).map(numbered)


@settings(max_examples=60, deadline=None)
@given(corpora, st.integers(1, 7), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 5))
def test_every_pass_over_a_chunk_gives_each_of_its_tokens_once(
    corpus: Corpus, batch: int, batches: int, reuse: int, include_bos: bool, seed: int
) -> None:
    stream = stream_over(corpus, batch_tokens=batch, chunk_tokens=batch * batches + batch - 1, reuse=reuse,
                         include_bos=include_bos, seed=seed)
    assert stream.chunk_tokens % batch == 0
    assert stream.chunk_tokens <= batch * batches
    text = text_in_order(corpus, seed, include_bos)
    source = stream.batches()
    for _ in range(4):  # chunks, more than one epoch where the text is short
        expected = sorted(islice(text, stream.chunk_tokens))
        for _ in range(reuse):
            handed = [next(source) for _ in range(stream.chunk_tokens // batch)]
            assert all(x_BD.shape == (batch, 2) and x_BD.dtype == torch.float32 for x_BD in handed)
            assert sorted(torch.cat(handed)[:, 0].int().tolist()) == expected


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 30))
def test_started_in_the_middle_it_goes_on_bit_for_bit(
    corpus: Corpus, batch: int, batches: int, reuse: int, step: int
) -> None:
    options = {"batch_tokens": batch, "chunk_tokens": batch * batches, "reuse": reuse, "seed": 3}
    whole = list(islice(stream_over(corpus, **options).batches(), step + 8))
    resumed = stream_over(corpus, **options)
    resumed.sample(5)  # a fresh run does this before its first step
    for expected, found in zip(whole[step:], resumed.batches(step), strict=False):
        assert torch.equal(expected, found)


def test_passes_and_seeds_differ_in_their_order() -> None:
    corpus = numbered([9] * 12)

    def first(**values: Any) -> list[list[int]]:
        stream = stream_over(corpus, chunk_tokens=40, **values)
        return [x_BD[:, 0].int().tolist() for x_BD in islice(stream.batches(), 20)]

    batches = first(reuse=2)
    assert batches[:10] != batches[10:]
    assert sorted(chain(*batches[:10])) == sorted(chain(*batches[10:]))
    assert first(reuse=2) == batches
    assert first(reuse=2, seed=1) != batches
    assert batches[0] != sorted(batches[0])  # shuffled: neighbours come from several contexts
    assert len({token // 9 for token in batches[0]}) > 1


def test_the_sample_is_of_the_first_chunk() -> None:
    corpus = numbered([9] * 12)
    stream = stream_over(corpus, chunk_tokens=40)
    chunk = set(islice(text_in_order(corpus, 0, True), 40))
    sample = stream.sample(15)[:, 0].int().tolist()
    assert len(set(sample)) == 15
    assert set(sample) <= chunk
    assert set(stream.sample(1000)[:, 0].int().tolist()) == chunk


def test_bfloat16_is_how_they_are_kept_not_how_they_come() -> None:
    stream = stream_over(numbered([9] * 12), dtype=torch.bfloat16)
    x_BD = next(stream.batches())
    assert x_BD.dtype == torch.float32
    assert torch.equal(x_BD, x_BD.bfloat16().float())


def test_a_harvest_can_be_stopped() -> None:
    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        next(stream_over(numbered([9] * 3), check=stop).batches())


def test_harvesting_ahead_changes_nothing_and_ends_with_the_batches() -> None:
    corpus = numbered([9] * 12)
    expected = list(islice(stream_over(corpus).batches(), 20))
    stream = stream_over(corpus, ahead=True)
    source = stream.batches()
    assert all(torch.equal(x_BD, next(source)) for x_BD in expected)
    stream.lm.pause_s = 0.05  # type: ignore[attr-defined]
    for _ in range(6):  # now the thread is in the middle of a chunk
        next(source)
    source.close()
    # The caller of the last batch uses the language model next, which serves one thread at a time.
    read = stream.lm.tokens_read  # type: ignore[attr-defined]
    assert not stream.lm.reading  # type: ignore[attr-defined]
    time.sleep(0.15)
    assert stream.lm.tokens_read == read  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None)
@given(corpora, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 40), st.booleans())
def test_a_run_reads_no_more_than_its_steps_need_and_sees_the_same_as_without_an_end(
    corpus: Corpus, batch: int, batches: int, reuse: int, n_steps: int, ahead: bool
) -> None:
    """Compare all chunks but the last, which is smaller and therefore in another order."""
    options: dict[str, Any] = {"batch_tokens": batch, "chunk_tokens": batch * batches, "reuse": reuse}
    stream = stream_over(corpus, n_steps=n_steps, ahead=ahead, **options)
    handed = list(stream.batches())
    assert len(handed) >= n_steps
    assert len(handed) - n_steps < reuse
    needed = -(-n_steps // reuse) * batch
    assert needed - reuse * batch < stream.timing.tokens <= needed + batch * (n_steps // batches + 1)
    whole = n_steps - n_steps % (stream.chunk_tokens // batch * reuse)
    assert all(map(torch.equal, handed[:whole], stream_over(corpus, **options).batches()))


def test_the_language_model_is_read_in_proportion_to_the_steps() -> None:
    """Check that no step but the first waits for a whole chunk."""
    corpus = numbered([9] * 500)
    stream = stream_over(corpus, batch_tokens=18, chunk_tokens=720, reuse=2)
    read = []
    for _ in islice(stream.batches(), 200):
        read.append(stream.lm.tokens_read)  # type: ignore[attr-defined]
    assert read[0] >= 720
    assert max(b - a for a, b in pairwise(read)) <= 2 * 18
    # A chunk of 40 batches is handed out twice, so half a batch is read for each step.
    assert all(abs(read[i + 40] - read[i] - 360) <= 2 * 18 for i in range(150))


def test_two_sites_come_from_one_pass_side_by_side() -> None:
    corpus = numbered([9] * 12)

    class Two(Echo):
        passes = 0

        def activations_at(self, tokens_PS: Tensor, hooks: Any, *, autocast: bool = False) -> list[Tensor]:
            self.passes += 1
            assert list(hooks) == ["blocks.0.hook_mlp_in", "blocks.0.hook_mlp_out"]
            one = super().activations(tokens_PS, hooks[0])
            return [one, torch.cat([-one, 2 * one, one], dim=2)]

    stream = ActivationStream(
        Two(), corpus, "blocks.0.hook_mlp_in", 4, 40, out_hook="blocks.0.hook_mlp_out",  # type: ignore[arg-type]
        dtype=torch.float32)
    assert stream.widths == (2, 6)
    x_BD, target_BD = next(stream.batches()).split([2, 6], dim=1)
    assert torch.equal(target_BD, torch.cat([-x_BD, 2 * x_BD, x_BD], dim=1))


def test_a_value_that_float16_cannot_hold_is_refused_with_the_setting() -> None:
    corpus = numbered([9] * 3)
    assert torch.equal(next(stream_over(corpus, dtype=torch.float16).batches()),
                       next(stream_over(corpus).batches()))
    corpus.tokens[:] = 65_535
    with pytest.raises(UserError, match="65,535 does not fit") as refused:
        next(stream_over(corpus, dtype=torch.float16).batches())
    assert refused.value.field == "buffer_dtype"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 200))
def test_context_batches_give_every_context_once_with_its_real_positions(seed: int, max_tokens: int) -> None:
    corpus = toy_corpus(20, 12, seed=1)
    contexts = np.random.default_rng(seed).permutation(20)[:13]
    seen = []
    for rows, tokens_PS, real_PS in context_batches(corpus, contexts, max_tokens=max_tokens):
        assert len(rows) <= max(1, max_tokens // 12)
        assert torch.equal(tokens_PS, torch.from_numpy(corpus.tokens[rows].astype(np.int64)))
        assert real_PS.sum(dim=1).tolist() == corpus.length[rows].tolist()
        assert all(row[:n].all() for row, n in zip(real_PS, corpus.length[rows], strict=True))
        seen += rows.tolist()
    assert seen == contexts.tolist()
