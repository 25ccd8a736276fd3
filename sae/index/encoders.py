"""A pool of encoders that make forward passes in parallel on a CPU.

If all cores shared one pass, they would wait for each other at the end of every product, and all but one
would be idle between products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import numpy as np
import torch

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.data.left_out import NOTHING, LeftOut
from sae.index.forward import Encoder, ForwardPass, sites_of
from sae.index.threads import MAX_THREADS, run_jobs
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import parallel_readers


class EncoderPool:
    """An encoder (`sae.index.forward`) for each thread on a CPU.

    Their readers, or else their copies of the language model, share its weights.

    On a GPU there is a single encoder.
    """

    def __init__(
        self, lm: LanguageModel, sae: Autoencoder, corpus: Corpus, near: float = 0.0, left_out: LeftOut = NOTHING
    ) -> None:
        n = min(torch.get_num_threads(), MAX_THREADS) if lm.device.type == "cpu" and not lm.settings.placed else 1
        first_PS = torch.from_numpy(corpus.tokens[:1].astype(np.int64))
        readers = parallel_readers(lm, sites_of(sae), n, first_PS)
        if len(readers) == n:
            self.encoders = [Encoder(lm, sae, corpus, near, left_out, read) for read in readers]
            return
        models = [lm, *(copy for copy in (lm.share_weights() for _ in range(n - 1))
                        if copy.reads_as(lm, [sae.hook, sae.out_hook]))]
        self.encoders = [Encoder(model, sae, corpus, near, left_out) for model in models]

    def read(
        self, contexts: np.ndarray, update: Callable[[int], None] = lambda tokens: None, *, bos: bool = False
    ) -> list[ForwardPass]:
        """Return the forward passes over the contexts, in the order of the contexts.

        `update(tokens)` receives the number of counted tokens read so far and may raise to stop.
        """
        free: SimpleQueue[Encoder] = SimpleQueue()
        for encoder in self.encoders:
            free.put(encoder)
        found: dict[int, ForwardPass] = {}
        tokens = 0

        def one(i: int, part: np.ndarray, check_stop: Callable[[], None]) -> tuple[int, ForwardPass]:
            check_stop()
            encoder = free.get()
            try:
                return i, encoder(part, bos=bos)
            finally:
                free.put(encoder)

        def done(result: tuple[int, ForwardPass]) -> None:
            nonlocal tokens
            i, found[i] = result
            tokens += int((found[i].tokens.position_B > 0).sum())
            update(tokens)

        parts = self.encoders[0].passes(contexts, len(self.encoders))
        run_jobs([partial(one, i, part) for i, part in enumerate(parts)], done, lambda: update(tokens),
                     max_threads=len(self.encoders))
        return [found[i] for i in range(len(parts))]

