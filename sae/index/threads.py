"""Jobs side by side, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

MOST = 4  # each holds the firings of a shard; with more cores each has several
_LOOK_S = 0.2  # between two looks at how far they are
Result = TypeVar("Result")


class _Stopped(Exception):
    """Another one failed, or the work is not wanted any more."""


def run_jobs(
    jobs: Sequence[Callable[[Callable[[], None]], Result]], done: Callable[[Result], None],
    check: Callable[[], None] = lambda: None, most: int = MOST,
) -> None:
    """Jobs that do not depend on each other, in `most` threads, begun in their order; the first exception ends all.

    Each is given a function to call now and then, which raises when it is to end.  `done` is told every result
    as it comes, in the calling thread; `check` may raise to stop them.
    """
    stop = threading.Event()

    def go_on() -> None:
        if stop.is_set():
            raise _Stopped

    n = max(1, min(torch.get_num_threads(), most, len(jobs)))
    with _threads_each(n), ThreadPoolExecutor(n, thread_name_prefix="job") as pool:
        going = {pool.submit(job, go_on) for job in jobs}
        try:
            while going:
                finished, going = wait(going, _LOOK_S, FIRST_COMPLETED)
                check()
                for future in finished:
                    done(future.result())
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _threads_each(n: int) -> Iterator[None]:
    """torch's threads divided by `n`."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // n))
    try:
        yield
    finally:
        torch.set_num_threads(before)
