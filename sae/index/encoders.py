"""Several things at once: on a CPU each core takes forward passes, and later some of the sums and the tables.

Cores that share every product wait for each other at its end, and all but one idle where the work is not a
product.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import torch

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.index.forward import Encoder, Pass
from sae.lm.bridge import LanguageModel

MOST = 4  # each holds the firings of a shard; with more cores each has several
_LOOK_S = 0.2  # between two looks at how far they are

Result = TypeVar("Result")


class _Stopped(Exception):
    """Another one failed, or the work is not wanted any more."""


class Crew:
    """An encoder (`sae.index.forward`) for each thread, of the model and its twins on a CPU; a single one on a GPU."""

    def __init__(self, lm: LanguageModel, sae: Autoencoder, corpus: Corpus, near: float = 0.0) -> None:
        n = min(torch.get_num_threads(), MOST) if lm.device.type == "cpu" else 1
        models = [lm, *(lm.twin() for _ in range(n - 1))]
        self.encoders = [Encoder(model, sae, corpus, near) for model in models]

    def read(
        self, contexts: np.ndarray, update: Callable[[int], None] = lambda tokens: None, *, bos: bool = False
    ) -> list[Pass]:
        """The forward passes over the contexts, in their order, whoever made them.

        `update(tokens)` is told the counted tokens read so far and may raise to stop.
        """
        free: SimpleQueue[Encoder] = SimpleQueue()
        for encoder in self.encoders:
            free.put(encoder)
        found: dict[int, Pass] = {}
        tokens = 0

        def one(i: int, part: np.ndarray, go_on: Callable[[], None]) -> tuple[int, Pass]:
            go_on()
            encoder = free.get()
            try:
                return i, encoder(part, bos=bos)
            finally:
                free.put(encoder)

        def done(result: tuple[int, Pass]) -> None:
            nonlocal tokens
            i, found[i] = result
            tokens += int((found[i][1].position_B > 0).sum())
            update(tokens)

        parts = self.encoders[0].passes(contexts, len(self.encoders))
        side_by_side([partial(one, i, part) for i, part in enumerate(parts)], done, lambda: update(tokens),
                     most=len(self.encoders))
        return [found[i] for i in range(len(parts))]


def side_by_side(
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
