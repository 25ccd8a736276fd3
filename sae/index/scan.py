"""The streaming pass: language model and SAE over the text, a round of forward passes at a time, resumable."""

from __future__ import annotations

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

SHARD_TOKENS = 65_536  # of a round, for each encoder
_LAYOUT = 2  # of what a checkpoint holds; one with another is not gone on with


def scan(
    pool: EncoderPool, corpus: Corpus, contexts: np.ndarray, scales: IndexScales, *, saver: Saver | None = None,
    read: Sequence[ForwardPass] = (), update: Callable[[int], None] = lambda tokens: None,
) -> Shard:
    """The aggregates of `contexts`, from the last finished shard on if `saver` has one, which is given every one
    that is finished.  `read`: what is known already of the first contexts, BOS included.

    `update(tokens)` is told the counted tokens read so far and may raise to stop.
    """
    kind = {"layout": _LAYOUT, "frame": asdict(scales)}
    state = saver.load() if saver else None
    if state and any(state.get(name) != value for name, value in kind.items()):
        state = None
    merged = Shard.from_state(state["shard"]) if state else None
    done = int(state["contexts"]) if state else 0
    per_round = len(pool.encoders) * max(1, SHARD_TOKENS // corpus.context_length)
    while done < len(contexts):
        first = [(firings.counted(), tokens, misses) for firings, tokens, misses in read] if done == 0 else []
        known = sum(tokens.n_contexts for _, tokens, _ in first)
        rows = contexts[done : done + max(per_round, known)]

        def tell(tokens: int, before: int = _counted(corpus, contexts[: done + known])) -> None:
            update(before + tokens)

        shard = Shard.of(scales, [*first, *pool.read(rows[known:], tell)])
        if merged:
            trim_malloc()
            merged.absorb(shard, scales)
        else:
            merged = shard
        done += len(rows)
        if done < len(contexts):
            trim_malloc()  # or memory would grow with the text: what is kept falls to pieces
        if saver:
            saver.save(kind | {"shard": merged.state(), "contexts": done})
    if merged is None:
        raise ValueError("no contexts to read")
    return merged


def _counted(corpus: Corpus, contexts: np.ndarray) -> int:
    return int((corpus.length[contexts].astype(np.int64) - 1).sum())
