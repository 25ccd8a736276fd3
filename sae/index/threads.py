"""Parallel jobs, one thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from sae.kernels.threads import torch_threads_divided

MAX_THREADS = 4  # each holds the firings of a shard in memory; further cores are divided among the threads
_POLL_S = 0.2  # seconds between two calls of `check`
Result = TypeVar("Result")


class _Stopped(Exception):
    """Signal to a job that another one failed or that the caller stopped them all."""


def run_jobs(
    jobs: Sequence[Callable[[Callable[[], None]], Result]], done: Callable[[Result], None],
    check: Callable[[], None] = lambda: None, max_threads: int = MAX_THREADS,
) -> None:
    """Run independent jobs in at most `max_threads` threads, and start them in their order.

    Each job gets a function that it should call now and then, and which raises once the job has to stop.
    `done` receives every result as it arrives, in the calling thread.  `check` may raise to stop all jobs.
    Raises the first exception of a job, of `done` or of `check`, after asking the other jobs to stop.
    """
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise _Stopped

    n = max(1, min(torch.get_num_threads(), max_threads, len(jobs)))
    with torch_threads_divided(n), ThreadPoolExecutor(n, thread_name_prefix="job") as pool:
        running = {pool.submit(job, check_stop) for job in jobs}
        try:
            while running:
                finished, running = wait(running, _POLL_S, FIRST_COMPLETED)
                check()
                for future in finished:
                    done(future.result())
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
