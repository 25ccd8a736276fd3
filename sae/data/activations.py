"""Activations of a language model on a text, as shuffled batches.

The text is an endless stream of tokens: a sequence of contexts that is shuffled again in every epoch.  It is cut into
chunks.  A chunk is harvested into one half of a buffer, permuted, and handed out in batches, `reuse` times with
another permutation each time.  Meanwhile the other half is filled with the next chunk.  On the CPU this happens
between the steps, in equal shares, so that no step waits for a whole chunk.  On CUDA a thread with its own stream does
it.

Chunk and permutations follow from the step number and the seed alone.  So a run resumed at step n sees exactly the
batches that it would have seen, and the buffer need not be saved.

Shapes: C tokens in a chunk, B tokens in a batch, P contexts in a forward pass, S positions, W the widths of all sites
together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sae.data.corpus import Corpus, Split
from sae.data.left_out import NOTHING, LeftOut
from sae.distributed import ALONE, Group
from sae.errors import UserError
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import Read, reader

if TYPE_CHECKING:
    from sae.data.kept import KeptActivations

_FORWARD_TOKENS = 8192  # tokens in one forward pass of the language model, if no step waits for it


def context_batches(
    corpus: Corpus, contexts: np.ndarray, *, max_tokens: int = _FORWARD_TOKENS
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yield rows of the corpus for the language model: (context numbers [P], tokens [P, S], real [P, S]).

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


def corpus_reader(
    lm: LanguageModel, corpus: Corpus, hooks: Sequence[str], *, autocast: bool
) -> tuple[Read, tuple[int, ...]]:
    """Return the reader of a corpus' activations, and the width of each site.

    It is chosen on the first context of the corpus, so that a run that resumes chooses the same.
    """
    read = reader(lm, hooks, autocast=autocast)
    first_PS = torch.from_numpy(corpus.tokens[:1].astype(np.int64)).to(lm.device)
    return read, tuple(x_PSD.shape[2] for x_PSD in read(first_PS))


def shared_rows(
    group: Group, lm: LanguageModel, corpus: Corpus, contexts: np.ndarray, hooks: Sequence[str], *, include_bos: bool,
    width: int, dtype: torch.dtype, read: Read, max_tokens: int, left_out: LeftOut = NOTHING,
) -> Iterator[Tensor]:
    """Yield the rows of `forward_rows`, with the forward passes dealt out among the processes of a group.

    Each process makes every world-th pass, exactly as one process alone would make it.  All processes get the rows of
    all passes, in `dtype`.
    """
    if group.world == 1:
        yield from forward_rows(lm, corpus, contexts, hooks, include_bos=include_bos, read=read,
                                max_tokens=max_tokens, left_out=left_out, replace=True)
        return
    per_pass = max(1, max_tokens // corpus.context_length)
    passes = [contexts[start : start + per_pass] for start in range(0, len(contexts), per_pass)]
    for start in range(0, len(passes), group.world):
        dealt = passes[start : start + group.world]
        sizes = [int((corpus.length[rows].astype(np.int64) - (0 if include_bos else 1)).sum()) for rows in dealt]
        own_NW = torch.zeros(max(sizes), width, dtype=dtype, device=lm.device)
        if group.rank < len(dealt):
            own_NW[: sizes[group.rank]] = next(forward_rows(
                lm, corpus, dealt[group.rank], hooks, include_bos=include_bos, read=read,
                max_tokens=max_tokens, left_out=left_out, replace=True))
        for size, rows_NW in zip(sizes, group.gather(own_NW), strict=False):
            yield rows_NW[:size]


def forward_rows(
    lm: LanguageModel, corpus: Corpus, contexts: np.ndarray, hooks: Sequence[str], *, include_bos: bool,
    read: Read | None = None, max_tokens: int = _FORWARD_TOKENS, left_out: LeftOut = NOTHING, replace: bool = False,
) -> Iterator[Tensor]:
    """Yield the activations of the contexts' real tokens, [N, W] float32 per forward pass, in the order of the text.

    `read` computes them from tokens [P, S]; without it the model's bridge does.
    Activations of several sites are concatenated.  The first site decides which tokens are left out; they are missing
    from the rows, or for `replace` replaced by others.
    """
    for _, tokens_PS, real_PS in context_batches(corpus, contexts, max_tokens=max_tokens):
        if not include_bos:
            real_PS[:, 0] = False
        real_PS = real_PS.to(lm.device)
        tokens_PS = tokens_PS.to(lm.device)
        sites = [x_PSD[real_PS] for x_PSD in (read(tokens_PS) if read else lm.activations_at(tokens_PS, hooks))]
        rows_NW = sites[0] if len(sites) == 1 else torch.cat(sites, dim=1)
        if left_out:
            out_N = left_out.mask(sites[0], tokens_PS[real_PS])
            rows_NW = left_out.replaced(rows_NW, out_N) if replace else rows_NW[~out_N]
        yield rows_NW


@dataclass
class Timing:
    """Seconds in the language model, tokens harvested in them, and seconds spent waiting for a batch."""

    seconds: float = 0.0
    tokens: int = 0
    waited: float = 0.0


@dataclass
class _Half:
    """One half of the buffer: its chunk, how many rows are filled, and the harvest that brings the rest."""

    rows_CW: Tensor
    chunk: int | None = None
    filled: int = 0
    harvest: Iterator[Tensor] = field(default_factory=lambda: iter(()))


@dataclass
class ActivationStream:
    """Batches of raw activations [B, W] of one site, or of a transcoder's two, float32, on the model's device."""

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
    out_hook: str = ""  # the site that a transcoder reconstructs
    n_steps: int | None = None  # of the run; no more is harvested than they need
    check: Callable[[], None] = lambda: None  # raises to stop a harvest
    # Whether a thread harvests the next chunk in the meantime.  None means only on CUDA, which works
    # while Python waits; on the CPU the thread would take cores from the SAE.
    ahead: bool | None = None
    timing: Timing = field(default_factory=Timing)
    left_out: LeftOut = NOTHING  # tokens whose places others take
    group: Group = ALONE  # the processes that share the language model's work; each gets whole batches
    kept: KeptActivations | None = None  # read instead of the language model

    def __post_init__(self) -> None:
        self.group = self.group.apart()  # the harvesting thread has separate communicators
        self.hooks = [self.hook, self.out_hook] if self.out_hook else [self.hook]
        if self.kept:
            self.widths = self.kept.widths(self.hooks)
        else:
            self._read, self.widths = corpus_reader(
                self.lm, self.corpus, self.hooks, autocast=self.dtype == torch.bfloat16)
        self.chunk_tokens -= self.chunk_tokens % self.batch_tokens
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        count = self.corpus.length[self._contexts(self.seed)].astype(np.int64)
        self.epoch_tokens = int((count - (0 if self.include_bos else 1)).sum())
        # More than the text holds would only repeat it within one chunk.
        whole = max(self.batch_tokens, self.epoch_tokens - self.epoch_tokens % self.batch_tokens)
        self.chunk_tokens = min(self.chunk_tokens, whole)
        cuda = self.lm.device.type == "cuda"
        self._halved = False
        self._pass_tokens = _FORWARD_TOKENS if cuda else min(_FORWARD_TOKENS, self.batch_tokens)
        self._thread = ThreadPoolExecutor(1) if (cuda if self.ahead is None else self.ahead) else None
        self._side = torch.cuda.Stream(self.lm.device) if cuda and self._thread else None  # type: ignore[no-untyped-call]
        self._stop = threading.Event()
        self._halves: list[_Half | None] = [None, None]

    def sample(self, n_tokens: int) -> Tensor:
        """Return the first activations of the stream, in random order: [≤ n_tokens, W] float32."""
        size = self._size(0)
        rows_CW = self._fill(0, size).rows_CW
        return rows_CW[self._order(0, 0, size)[:n_tokens]].float()

    def batches(self, start_step: int = 0) -> Iterator[Tensor]:
        """Yield the batches from step `start_step` on, to the last step or endlessly."""
        chunk, first = divmod(start_step, self.chunk_tokens // self.batch_tokens * self.reuse)
        while size := self._size(chunk):
            half = self._fill(chunk, size)
            per_pass = size // self.batch_tokens
            following = self._size(chunk + 1)
            pending = self._fill_ahead(chunk + 1, following) if self._thread and following else None
            try:
                order_C = self._order(chunk, first // per_pass, size)
                for step in range(first, per_pass * self.reuse):
                    if following and not pending:
                        self._fill(chunk + 1, -(-following * (step + 1) // (per_pass * self.reuse)))
                    number, start = step // per_pass, step % per_pass * self.batch_tokens
                    if not start:
                        order_C = self._order(chunk, number, size)
                    yield half.rows_CW[order_C[start : start + self.batch_tokens]].float()
                if pending:
                    self._wait(pending)
            finally:  # the caller uses the language model next, which serves one thread at a time
                if pending and not pending.done():
                    self._stop.set()
                    wait([pending])
                    self._stop.clear()
            chunk, first = chunk + 1, 0

    # ---- filling

    def _size(self, chunk: int) -> int:
        """Return the number of tokens in a chunk; the last one of a run is as small as its steps allow."""
        if self.n_steps is None:
            return self.chunk_tokens
        steps_left = self.n_steps - chunk * (self.chunk_tokens // self.batch_tokens) * self.reuse
        return max(0, min(self.chunk_tokens, -(-steps_left // self.reuse) * self.batch_tokens))

    def _half(self, chunk: int) -> _Half:
        """Return the half for a chunk, starting the chunk's harvest if it is not there yet."""
        half = self._halves[chunk % 2]
        if half is None:
            half = _Half(torch.empty(self.chunk_tokens, sum(self.widths), dtype=self.dtype, device=self.lm.device))
            self._halves[chunk % 2] = half
        if half.chunk != chunk:
            half.chunk, half.filled, half.harvest = chunk, 0, self._harvest(chunk)
        return half

    def _fill(self, chunk: int, n_tokens: int) -> _Half:
        """Return the half for a chunk with at least `n_tokens` of its tokens filled."""
        half = self._half(chunk)
        if half.filled < n_tokens:
            started = time.perf_counter()
            self._pour(half, n_tokens, self.check)
            self.timing.waited += time.perf_counter() - started
        return half

    def _pour(self, half: _Half, n_tokens: int, check: Callable[[], None] = lambda: None) -> None:
        started, before = time.perf_counter(), half.filled
        try:
            while half.filled < n_tokens and not self.group.any(self._stop.is_set()):
                rows_NW = next(half.harvest)
                half.rows_CW[half.filled : half.filled + len(rows_NW)] = rows_NW
                half.filled += len(rows_NW)
                check()
        except BaseException:
            half.chunk = None  # its harvest has ended
            raise
        self.timing.seconds += time.perf_counter() - started
        self.timing.tokens += half.filled - before

    def _fill_ahead(self, chunk: int, n_tokens: int) -> Future[None]:
        """Fill the half for a chunk in the thread, on its own CUDA stream, after all pending reads of that half."""
        half = self._half(chunk)
        assert self._thread is not None
        if self._side is None:
            return self._thread.submit(self._pour, half, n_tokens)
        read = torch.cuda.current_stream(self.lm.device).record_event()
        side = self._side

        def pour() -> None:
            with torch.cuda.stream(side):
                side.wait_event(read)
                self._pour(half, n_tokens)
                side.synchronize()

        return self._thread.submit(pour)

    def _wait(self, pending: Future[None]) -> None:
        started = time.perf_counter()
        pending.result()
        self.timing.waited += time.perf_counter() - started

    def _harvest(self, chunk: int) -> Iterator[Tensor]:
        """Yield the activations of a chunk's tokens, in the order of the text, one forward pass at a time."""
        left, position = self._size(chunk), chunk * self.chunk_tokens
        while left:
            epoch, offset = divmod(position, self.epoch_tokens)
            contexts, ends = self._text_order(epoch)
            first = int(np.searchsorted(ends, offset, side="right"))
            skip = offset - (int(ends[first - 1]) if first else 0)  # tokens of that context already used
            last = int(np.searchsorted(ends, offset + left, side="left")) + 1
            dtype = torch.float32 if self.dtype == torch.float16 else self.dtype  # its range is checked here
            try:
                rows = self.kept.rows(
                    contexts[first:last], self.hooks, include_bos=self.include_bos, left_out=self.left_out,
                    max_tokens=self._pass_tokens,
                ) if self.kept else shared_rows(
                    self.group, self.lm, self.corpus, contexts[first:last], self.hooks, include_bos=self.include_bos,
                    width=sum(self.widths), dtype=dtype, read=self._read,
                    max_tokens=self._pass_tokens, left_out=self.left_out)
                for rows_NW in rows:
                    rows_NW = rows_NW[skip : skip + left]
                    skip, left, position = 0, left - len(rows_NW), position + len(rows_NW)
                    self._check_range(rows_NW)
                    yield rows_NW
            except torch.OutOfMemoryError:  # the text continues at `position`, in smaller passes
                self._halve_passes()

    def _halve_passes(self) -> None:
        """Halve the passes of the language model, once.  Raises UserError (field `buffer_tokens`) the second time.

        Other passes change only the last bits of activations.  Several processes do not know of each other's passes,
        so they stop at the first time.
        """
        if self._halved or self.group.world > 1:
            raise UserError(f"buffer_tokens: the memory of {self.lm.device} is too small for the language model's "
                            f"passes of {self._pass_tokens:,} tokens; lower buffer_tokens or n_latents",
                            "buffer_tokens")
        self._halved, self._pass_tokens = True, self._pass_tokens // 2
        print(f"the memory of {self.lm.device} is full: the language model now reads {self._pass_tokens:,} tokens at "
              "once", flush=True)
        if self.lm.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_range(self, rows_NW: Tensor) -> None:
        if self.dtype == torch.float16 and not bool(rows_NW.abs().max() <= torch.finfo(torch.float16).max):
            raise UserError(f"buffer_dtype: an activation of {float(rows_NW.abs().max()):,.0f} does not fit into "
                            "float16; use bfloat16", "buffer_dtype")

    # ---- orders

    def _contexts(self, seed: int) -> np.ndarray:
        """Return the contexts of an epoch, which are those of the split, or those whose activations were kept."""
        if self.kept is None:
            return self.corpus.contexts(self.split, seed)
        return np.random.default_rng(seed).permutation(np.sort(self.kept.contexts))

    def _text_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the contexts of an epoch in its order, and the running count of their tokens."""
        if self._epoch is None or self._epoch[0] != epoch:
            contexts = self._contexts(self.seed + epoch)
            count = self.corpus.length[contexts].astype(np.int64) - (0 if self.include_bos else 1)
            self._epoch = (epoch, contexts, np.cumsum(count))
        return self._epoch[1], self._epoch[2]

    def _order(self, chunk: int, pass_number: int, size: int) -> Tensor:
        """Return the order in which a pass over a chunk hands out its tokens."""
        seed = np.random.SeedSequence([self.seed, chunk, pass_number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) % 2**63)
        return torch.randperm(size, generator=generator).to(self.lm.device)
