"""Several things at once: on a CPU each core takes a part of the text through the model, the SAE and the sums,
and later some of the tables.

Cores that share every product wait for each other at its end, and all but one idle where the work is not a
product.  Shards merge exactly, so who took which part of the text does not show.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from sae.lm import LanguageModel

MOST = 4  # each holds a shard's firings; with more cores each has several
_LOOK_S = 0.2  # between two looks at how far they are

Part = TypeVar("Part")
Result = TypeVar("Result")


class _Stopped(Exception):
    """Another one failed, or the work is not wanted any more."""


def crew(lm: LanguageModel) -> list[LanguageModel]:
    """A model for each thread: `lm` itself and its twins on a CPU, `lm` alone on a GPU."""
    n = min(torch.get_num_threads(), MOST) if lm.device.type == "cpu" else 1
    return [lm, *(lm.twin() for _ in range(n - 1))]


def at_once(
    work: Callable[[LanguageModel, Part, Callable[[int], None]], Result], models: Sequence[LanguageModel],
    parts: Sequence[Part], update: Callable[[int], None],
) -> list[Result]:
    """`work(model, part, tell)` for each part, in a thread of its own; the first exception ends them all.

    What they `tell` of their progress is added up for `update`, which may raise to stop them.
    """
    told = [0] * len(parts)
    stop = threading.Event()

    def one(i: int) -> Result:
        def tell(n: int) -> None:
            told[i] = n
            if stop.is_set():
                raise _Stopped

        return work(models[i], parts[i], tell)

    with _threads_each(len(parts)), ThreadPoolExecutor(len(parts), thread_name_prefix="shard") as pool:
        futures = [pool.submit(one, i) for i in range(len(parts))]
        try:
            while _going(futures):
                update(sum(told))
            update(sum(told))
        finally:
            stop.set()
    failed = [error for f in futures if (error := f.exception()) and not isinstance(error, _Stopped)]
    if failed:
        raise failed[0]
    return [f.result() for f in futures]


def side_by_side(
    jobs: Sequence[Callable[[Callable[[], None]], Result]], done: Callable[[Result], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Jobs that do not depend on each other, in threads, begun in their order; the first exception ends them all.

    Each is given a function to call now and then, which raises when it is to end.  `done` is told every result
    as it comes, in the calling thread; `check` may raise to stop them.
    """
    stop = threading.Event()

    def go_on() -> None:
        if stop.is_set():
            raise _Stopped

    n = max(1, min(torch.get_num_threads(), MOST, len(jobs)))
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


def _going(futures: Sequence[Future[Result]]) -> bool:
    """Whether they are at work still, none having failed; waits a moment for that to change."""
    done, going = wait(futures, _LOOK_S, FIRST_EXCEPTION)
    return bool(going) and not any(future.exception() for future in done)


@contextmanager
def _threads_each(n: int) -> Iterator[None]:
    """torch's threads divided by `n`."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // n))
    try:
        yield
    finally:
        torch.set_num_threads(before)
