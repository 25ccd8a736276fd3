"""Work shared among threads: results, progress, stopping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sae.index import forward
from sae.index.encoders import EncoderPool
from tests.toys import ToyModel, toy_corpus, toy_sae
from tests.unit.sae.index.random_text import same

CORPUS = toy_corpus(60)


@pytest.fixture
def pool() -> Iterator[EncoderPool]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield EncoderPool(ToyModel(), toy_sae(), CORPUS)  # type: ignore[arg-type]
    torch.set_num_threads(before)


@pytest.mark.parametrize("bos", [True, False])
def test_passes_come_in_the_order_of_the_contexts_whichever_thread_made_them(
    pool: EncoderPool, bos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_CPU_TOKENS", 6 * CORPUS.context_length)
    pool = EncoderPool(ToyModel(), toy_sae(), CORPUS)  # type: ignore[arg-type]
    assert len(pool.encoders) == 3
    contexts = np.random.default_rng(0).permutation(len(CORPUS.length))
    reported: list[int] = []
    found = pool.read(contexts, reported.append, bos=bos)
    alone = [pool.encoders[0](contexts[i : i + 5], bos=bos) for i in range(0, len(contexts), 5)]  # 12 for 3
    assert len(found) == len(alone)
    for ours, theirs in zip(found, alone, strict=True):
        for name in ("firings", "tokens", "misses"):
            assert same(vars(getattr(ours, name)), vars(getattr(theirs, name)))
    assert reported == sorted(reported)
    assert reported[-1] == (CORPUS.length[contexts] - 1).sum()
    assert bos == any(bool((one.firings.position_N == 0).any()) for one in found)


def test_the_progress_callback_may_stop_it(pool: EncoderPool) -> None:
    def update(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.read(np.arange(len(CORPUS.length)), update)
    assert len(pool.read(np.arange(4))) == 3  # it is free for other work
    assert pool.read(np.arange(0)) == []
