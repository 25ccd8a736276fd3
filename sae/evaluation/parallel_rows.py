"""Activations of a text, which a thread for each core reads while the caller works on those that are there already.

Shapes: P contexts, S positions, N tokens, W the widths of all sites together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from sae.data.activations import forward_rows
from sae.data.corpus import Corpus
from sae.data.left_out import LeftOut
from sae.index.threads import MAX_THREADS
from sae.kernels.threads import torch_threads_divided
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import Read, parallel_readers

_PASS_TOKENS = 2048  # per forward pass, so that the outputs of a layer stay in the cache
_FEWEST = 8192  # tokens below which choosing a reader takes longer than it saves


def parallel_rows(
    lm: LanguageModel, corpus: Corpus, contexts: np.ndarray, hooks: Sequence[str], left_out: LeftOut
) -> Iterator[Tensor]:
    """Yield the activations of the contexts' real tokens except BOS, [N, W] float32, in the order of the text.

    While it is not finished, torch's threads are divided among the readers.
    """
    many = len(contexts) * corpus.context_length >= _FEWEST
    readers = parallel_readers(
        lm, hooks, min(torch.get_num_threads(), MAX_THREADS), _first(corpus)) if many else []
    if len(readers) < 2:
        yield from forward_rows(lm, corpus, contexts, hooks, include_bos=False, left_out=left_out,
                                read=readers[0] if readers else None)
        return
    free: SimpleQueue[Read] = SimpleQueue()
    for read in readers:
        free.put(read)

    def rows_of(some: np.ndarray) -> Tensor:
        read = free.get()
        try:
            rows_NW, = forward_rows(lm, corpus, some, hooks, include_bos=False, read=read, left_out=left_out)
            return rows_NW
        finally:
            free.put(read)

    size = max(1, _PASS_TOKENS // corpus.context_length)
    with torch_threads_divided(len(readers)), ThreadPoolExecutor(len(readers), "reader") as pool:
        ahead: deque[Future[Tensor]] = deque()
        try:
            for start in range(0, len(contexts), size):
                ahead.append(pool.submit(rows_of, contexts[start : start + size]))
                if len(ahead) > 2 * len(readers):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _first(corpus: Corpus) -> Tensor:
    """Return the tokens of the first context, on which readers are compared."""
    return torch.from_numpy(corpus.tokens[:1].astype(np.int64))
