"""Jobs in threads: results, order, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from sae.index.threads import run_jobs


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
