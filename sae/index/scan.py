"""The resumable streaming pass of language model and SAE over the text, a round of forward passes at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from sae.data.corpus import Corpus
from sae.index.encoders import EncoderPool
from sae.index.forward import ForwardPass
from sae.index.scales import IndexScales
from sae.index.shard import Shard
from sae.kernels.malloc import trim_malloc
from sae.workspace.checkpoint import Saver

SHARD_TOKENS = 65_536  # per encoder and round
SAVE_S = 20.0  # least seconds between two checkpoints; what takes less is done again as fast as it is saved and read
_LAYOUT = 2  # layout of a checkpoint; a checkpoint with another layout is ignored


def scan(
    pool: EncoderPool, corpus: Corpus, contexts: np.ndarray, scales: IndexScales, *, saver: Saver | None = None,
    read: Sequence[ForwardPass] = (), update: Callable[[int], None] = lambda tokens: None, per_round: int = 0,
) -> Shard:
    """Return the aggregates of `contexts`.

    `saver` saves the aggregates after a round, at most every `SAVE_S` seconds, and the scan resumes from what it
    saved.  `read` holds passes over the first contexts that were made already, BOS included.  `update(tokens)`
    receives the number of counted tokens read so far and may raise to stop.  A round reads `per_round` contexts (0:
    the number that suits the pool).  Raises ValueError without contexts.
    """
    kind = {"layout": _LAYOUT, "frame": asdict(scales)}
    state = saver.load() if saver else None
    if state and any(state.get(name) != value for name, value in kind.items()):
        state = None
    merged = Shard.from_state(state["shard"]) if state else None
    done = int(state["contexts"]) if state else 0
    per_round = per_round or contexts_per_round(pool, corpus)
    saved = time.monotonic()
    while done < len(contexts):
        first = [one.counted() for one in read] if done == 0 else []
        known = sum(one.tokens.n_contexts for one in first)
        rows = contexts[done : done + max(per_round, known)]

        def report(tokens: int, before: int = _counted(corpus, contexts[: done + known])) -> None:
            update(before + tokens)

        shard = Shard.of(scales, [*first, *pool.read(rows[known:], report)])
        if merged:
            trim_malloc()
            merged.absorb(shard, scales)
        else:
            merged = shard
        done += len(rows)
        if done < len(contexts):
            trim_malloc()  # without this, freed memory is fragmented and the process grows with the text
        if saver and time.monotonic() - saved >= SAVE_S:
            saved = time.monotonic()
            saver.save(kind | {"shard": merged.state(), "contexts": done})
    if merged is None:
        raise ValueError("no contexts to read")
    return merged


def contexts_per_round(pool: EncoderPool, corpus: Corpus) -> int:
    """Return the number of contexts that a round of the scan reads."""
    return len(pool.encoders) * max(1, SHARD_TOKENS // corpus.context_length)


def _counted(corpus: Corpus, contexts: np.ndarray) -> int:
    return int((corpus.length[contexts].astype(np.int64) - 1).sum())
