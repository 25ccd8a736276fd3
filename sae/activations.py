"""Language model and text to shuffled activation batches.

The text, as a sequence of contexts shuffled anew in every epoch, is an endless stream of
tokens.  It is cut into chunks; one chunk at a time is harvested into a buffer made once,
permuted, and handed out in batches, `reuse` times with another permutation each.  Chunk and
permutations follow from the step number and the seed alone, so a run resumed at step n sees
exactly the batches that it would have seen, and nothing of the buffer has to be saved.

Shapes: C tokens in a chunk, B tokens in a batch, P contexts in a forward pass, S positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sae.corpus import Corpus, Split
from sae.lm import LanguageModel

_FORWARD_TOKENS = 8192  # tokens in one forward pass of the language model


def context_batches(
    corpus: Corpus, contexts: np.ndarray, *, max_tokens: int = _FORWARD_TOKENS
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows of the corpus for the language model: (context numbers [P], tokens [P, S], real [P, S]).

    `real` is False on the padding at the end of a short context.
    """
    per_pass = max(1, max_tokens // corpus.context_length)
    positions_S = torch.arange(corpus.context_length)
    for start in range(0, len(contexts), per_pass):
        rows = contexts[start : start + per_pass]
        order = np.argsort(rows)  # read the memory map forwards
        tokens_PS = torch.empty(len(rows), corpus.context_length, dtype=torch.int64)
        tokens_PS[order] = torch.from_numpy(corpus.tokens[rows[order]].astype(np.int64))
        real_PS = positions_S < torch.from_numpy(corpus.length[rows].astype(np.int64))[:, None]
        yield rows, tokens_PS, real_PS


@dataclass
class Timing:
    """Seconds spent in the language model, and tokens harvested in them."""

    seconds: float = 0.0
    tokens: int = 0


@dataclass
class ActivationStream:
    """Batches of raw activations [B, D] of one site, float32, on the language model's device."""

    lm: LanguageModel
    corpus: Corpus
    hook: str
    batch_tokens: int
    chunk_tokens: int  # rounded down to whole batches
    reuse: int = 1
    include_bos: bool = True
    seed: int = 0
    split: Split = "train"
    dtype: torch.dtype = torch.bfloat16
    check: Callable[[], None] = lambda: None  # raises to stop a harvest
    # Whether a thread harvests the next chunk meanwhile; None: on CUDA, which works while Python
    # waits.  On the CPU it would only take the cores from the SAE.
    ahead: bool | None = None
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self.chunk_tokens -= self.chunk_tokens % self.batch_tokens
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        count = self.corpus.length[self.corpus.contexts(self.split, self.seed)].astype(np.int64)
        self.epoch_tokens = int((count - (0 if self.include_bos else 1)).sum())
        # More than the text holds would only repeat it within one chunk.
        whole = max(self.batch_tokens, self.epoch_tokens - self.epoch_tokens % self.batch_tokens)
        self.chunk_tokens = min(self.chunk_tokens, whole)
        ahead = self.lm.device.type == "cuda" if self.ahead is None else self.ahead
        self._ahead = ThreadPoolExecutor(1) if ahead else None
        shape = (self.chunk_tokens, self.lm.info.d_model)
        self._buffers = [torch.empty(shape, dtype=self.dtype, device=self.lm.device)
                         for _ in range(2 if self._ahead else 1)]
        self._held: list[int | None] = [None] * len(self._buffers)  # which chunk each buffer holds

    def sample(self, n_tokens: int) -> Tensor:
        """The first activations of the stream, in random order: [≤ n_tokens, D] float32."""
        chunk_CD = self._harvest(0)
        order = torch.randperm(self.chunk_tokens, generator=self._generator(0, 0))[:n_tokens]
        return chunk_CD[order.to(chunk_CD.device)].float()

    def batches(self, start_step: int = 0) -> Iterator[Tensor]:
        """The batches from step `start_step` on, endlessly."""
        steps_per_pass = self.chunk_tokens // self.batch_tokens
        chunk, within = divmod(start_step, steps_per_pass * self.reuse)
        pending = self._start(chunk)
        try:
            while True:
                chunk_CD = pending.result() if pending else self._harvest(chunk)
                pending = self._start(chunk + 1)
                for pass_number in range(within // steps_per_pass, self.reuse):
                    order_C = torch.randperm(self.chunk_tokens, generator=self._generator(chunk, pass_number))
                    order_C = order_C.to(chunk_CD.device)
                    for step in range(within % steps_per_pass, steps_per_pass):
                        rows = order_C[step * self.batch_tokens : (step + 1) * self.batch_tokens]
                        yield chunk_CD[rows].float()
                    within = 0
                chunk, within = chunk + 1, 0
        finally:  # whoever closes this goes on to use the language model, which serves one thread at a time
            if pending and not pending.cancel():
                wait([pending])

    def _start(self, chunk: int) -> Future[Tensor] | None:
        return self._ahead.submit(self._harvest, chunk) if self._ahead else None

    def _harvest(self, chunk: int) -> Tensor:
        """The activations of a chunk's tokens, in the order of the text: [C, D]."""
        slot = chunk % len(self._buffers)
        out_CD = self._buffers[slot]
        if self._held[slot] == chunk:
            return out_CD
        self._held[slot] = None
        started = time.perf_counter()
        filled = 0
        while filled < self.chunk_tokens:
            position = chunk * self.chunk_tokens + filled
            epoch, offset = divmod(position, self.epoch_tokens)
            contexts, ends = self._order(epoch)
            first = int(np.searchsorted(ends, offset, side="right"))
            skip = offset - (int(ends[first - 1]) if first else 0)  # tokens of that context already used
            last = int(np.searchsorted(ends, offset + self.chunk_tokens - filled, side="left")) + 1
            for _, tokens_PS, real_PS in context_batches(self.corpus, contexts[first:last]):
                self.check()
                if not self.include_bos:
                    real_PS[:, 0] = False
                device = self.lm.device
                resid_PSD = self.lm.activations(tokens_PS.to(device), self.hook, autocast=self.dtype == torch.bfloat16)
                rows_ND = resid_PSD[real_PS.to(device)][skip : skip + self.chunk_tokens - filled]
                out_CD[filled : filled + len(rows_ND)] = rows_ND
                filled, skip = filled + len(rows_ND), 0
        self._held[slot] = chunk
        self.timing.seconds += time.perf_counter() - started
        self.timing.tokens += self.chunk_tokens
        return out_CD

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The contexts of an epoch in its order, and the running count of their tokens."""
        if self._epoch is None or self._epoch[0] != epoch:
            contexts = self.corpus.contexts(self.split, self.seed + epoch)
            count = self.corpus.length[contexts].astype(np.int64) - (0 if self.include_bos else 1)
            self._epoch = (epoch, contexts, np.cumsum(count))
        return self._epoch[1], self._epoch[2]

    def _generator(self, chunk: int, pass_number: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.seed, chunk, pass_number]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed) % 2**63)
