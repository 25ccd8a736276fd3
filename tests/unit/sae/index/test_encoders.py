"""Work shared among threads: results, progress, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from sae.index import forward
from sae.index.encoders import EncoderPool
from sae.index.scales import make_scales
from sae.index.threads import run_jobs
from sae.lm.bridge import LanguageModel
from sae.specs.registry import IndexSettings
from tests.toys import ToyModel, corpus_of, toy_corpus, toy_sae
from tests.unit.sae.index.test_shard import same

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


def test_jobs_start_in_order_and_results_arrive_in_the_calling_thread() -> None:
    here, reported, before = threading.get_ident(), [], torch.get_num_threads()

    def done(result: tuple[int, int]) -> None:
        assert threading.get_ident() == here
        reported.append(result)

    run_jobs([lambda check_stop, i=i: (i, torch.get_num_threads()) for i in range(9)], done)  # type: ignore[misc]
    assert sorted(i for i, _ in reported) == list(range(9))
    assert {threads for _, threads in reported} == {max(1, before // min(before, 4))}
    assert torch.get_num_threads() == before
    run_jobs([], done)


@pytest.mark.parametrize("who", ["a job", "check", "done"])
def test_the_first_failure_ends_all_jobs(who: str) -> None:
    ended, begun = threading.Event(), []

    def fail(*_: object) -> None:
        raise ValueError(who)

    def long(check_stop: Callable[[], None]) -> None:
        begun.append(1)
        try:
            for _ in range(3000):
                check_stop()
                time.sleep(0.01)
        finally:
            ended.set()

    others = {"a job": fail, "done": lambda check_stop: None}
    jobs = [long, *([others[who]] if who in others else []), *[long] * 20]
    with pytest.raises(ValueError, match=who):
        run_jobs(jobs, fail if who == "done" else lambda result: None, fail if who == "check" else lambda: None)
    assert ended.is_set()
    assert len(begun) < len(jobs) - 1  # the remaining jobs never start


def test_a_model_that_shares_weights_has_hooks_of_its_own(demo_lm: LanguageModel) -> None:
    other = demo_lm.share_weights()
    tokens_PS = torch.arange(1, 9)[None]
    hook = "blocks.1.hook_resid_post"
    assert torch.equal(other.activations(tokens_PS, hook), demo_lm.activations(tokens_PS, hook))
    mine, theirs = (next(lm.bridge.parameters()).data_ptr() for lm in (demo_lm, other))
    assert mine == theirs
    plain = other.logits(tokens_PS)
    inside: list[torch.Tensor] = []

    def edit(x_PSD: torch.Tensor) -> torch.Tensor:
        inside.append(other.logits(tokens_PS))  # while the first model's hooks are on
        return torch.zeros_like(x_PSD)

    assert not torch.equal(demo_lm.logits(tokens_PS, {hook: edit}), plain)
    assert torch.equal(inside[0], plain)


def test_a_pass_of_contexts_without_text_is_a_pass() -> None:
    tokens = np.array([[0, 1, 2, 3]] + [[0, 0, 0, 0]] * 5)
    corpus = corpus_of(tokens, np.array([4, 1, 1, 1, 1, 1]))
    pool = EncoderPool(ToyModel(0), toy_sae("topk", "none"), corpus)  # type: ignore[arg-type]
    scales, _ = make_scales(ToyModel(0), toy_sae("topk", "none"), corpus,  # type: ignore[arg-type]
                           pool.read(np.arange(1, 6)), IndexSettings())
    assert scales.norm_unit > 0
