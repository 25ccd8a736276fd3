"""Work shared among threads: results, progress, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from sae.index.crew import at_once, crew, side_by_side
from sae.lm import LanguageModel


def models(n: int) -> list[LanguageModel]:
    return [None] * n  # type: ignore[list-item]


def test_results_come_in_the_order_of_the_parts_and_progress_adds_up() -> None:
    seen: list[int] = []
    before = torch.get_num_threads()

    def work(model: LanguageModel, part: int, tell: Callable[[int], None]) -> tuple[int, int]:
        tell(part)
        return part, torch.get_num_threads()

    assert at_once(work, models(2), [5, 7], seen.append) == [(5, max(1, before // 2)), (7, max(1, before // 2))]
    assert seen[-1] == 12
    assert torch.get_num_threads() == before


def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    def work(model: LanguageModel, part: int, tell: Callable[[int], None]) -> None:
        if part == 0:
            raise ValueError("part 0")
        for _ in range(3000):
            tell(1)
            time.sleep(0.01)

    with pytest.raises(ValueError, match="part 0"):
        at_once(work, models(2), [0, 1], lambda tokens: None)


def test_whoever_is_told_may_stop_it() -> None:
    ended = threading.Event()

    def work(model: LanguageModel, part: int, tell: Callable[[int], None]) -> None:
        try:
            for _ in range(3000):
                tell(1)
                time.sleep(0.01)
        finally:
            ended.set()

    def update(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_once(work, models(1), [0], update)
    assert ended.is_set()


def test_jobs_are_begun_in_order_and_their_results_told_here() -> None:
    here, told, before = threading.get_ident(), [], torch.get_num_threads()

    def done(result: tuple[int, int]) -> None:
        assert threading.get_ident() == here
        told.append(result)

    side_by_side([lambda go_on, i=i: (i, torch.get_num_threads()) for i in range(9)], done)  # type: ignore[misc]
    assert sorted(i for i, _ in told) == list(range(9))
    assert {threads for _, threads in told} == {max(1, before // min(before, 4))}
    assert torch.get_num_threads() == before
    side_by_side([], done)


@pytest.mark.parametrize("who", ["a job", "check", "done"])
def test_the_first_failure_ends_all_jobs(who: str) -> None:
    ended, begun = threading.Event(), []

    def fail(*_: object) -> None:
        raise ValueError(who)

    def long(go_on: Callable[[], None]) -> None:
        begun.append(1)
        try:
            for _ in range(3000):
                go_on()
                time.sleep(0.01)
        finally:
            ended.set()

    others = {"a job": fail, "done": lambda go_on: None}
    jobs = [long, *([others[who]] if who in others else []), *[long] * 20]
    with pytest.raises(ValueError, match=who):
        side_by_side(jobs, fail if who == "done" else lambda result: None, fail if who == "check" else lambda: None)
    assert ended.is_set()
    assert len(begun) < len(jobs) - 1  # those not begun never are


def test_twins_share_the_weights_and_not_the_hooks(demo_lm: LanguageModel) -> None:
    one, *others = crew(demo_lm)
    assert one is demo_lm
    twin = others[0] if others else demo_lm.twin()
    tokens_PS = torch.arange(1, 9)[None]
    hook = "blocks.1.hook_resid_post"
    assert torch.equal(twin.activations(tokens_PS, hook), demo_lm.activations(tokens_PS, hook))
    mine, theirs = (next(lm.bridge.parameters()).data_ptr() for lm in (demo_lm, twin))
    assert mine == theirs
    plain = twin.logits(tokens_PS)
    inside: list[torch.Tensor] = []

    def edit(x_PSD: torch.Tensor) -> torch.Tensor:
        inside.append(twin.logits(tokens_PS))  # while the other's hooks are on
        return torch.zeros_like(x_PSD)

    assert not torch.equal(demo_lm.logits(tokens_PS, {hook: edit}), plain)
    assert torch.equal(inside[0], plain)
