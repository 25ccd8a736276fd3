"""Work shared among threads: results, progress, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from sae.index.crew import at_once, crew
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
