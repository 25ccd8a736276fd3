"""How well a language model predicts held-out source files, in bits per byte.

Bits per byte do not depend on the vocabulary: the negative log-likelihood of a text, in bits,
over the text's UTF-8 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# tokens [P, S] -> next-token logits [P, S, V]
Logits = Callable[[Tensor], Tensor]
_ROWS = 16


@dataclass(frozen=True)
class Score:
    """`tokens` predicted, standing for `bytes` of text."""

    tokens: int
    bytes: int
    nats_per_token: float

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_token * self.tokens / self.bytes / math.log(2)


def score_contexts(logits: Logits, documents: Sequence[list[int]], n_bytes: int, context: int, bos: int) -> Score:
    """Every document in contexts of `context` positions, BOS first in each: as saescope uses a model.

    Every text token is predicted once.
    """
    rows = [[bos, *ids[start : start + context - 1]]
            for ids in documents for start in range(0, len(ids), context - 1)]
    nats, tokens = _loss(logits, rows, bos)
    return Score(tokens, n_bytes, nats / tokens)


def score_stream(logits: Logits, documents: Sequence[list[int]], n_bytes: int, context: int, bos: int) -> Score:
    """Documents in one stream, BOS before each, in windows of `context` inputs, no BOS at a window's start.

    BOS, which says that a document has ended, is predicted like any token.  What does not fill
    a window at the end is left out; its bytes are reckoned at the stream's mean.
    """
    stream = [token for ids in documents for token in (bos, *ids)]
    rows = [stream[start : start + context + 1] for start in range(0, len(stream) - context - 1, context)]
    nats, tokens = _loss(logits, rows, bos)
    return Score(tokens, round(n_bytes * tokens / len(stream)), nats / tokens)


@torch.no_grad()
def _loss(logits: Logits, rows: list[list[int]], pad: int) -> tuple[float, int]:
    """Sum of the negative log-likelihood of each row's tokens but the first, in nats, and their number."""
    if not rows:
        raise ValueError("no held-out text")
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        width = max(map(len, some))
        tokens_PS = torch.tensor([row + [pad] * (width - len(row)) for row in some])
        real_PS = torch.arange(1, width)[None, :] < torch.tensor([len(row) for row in some])[:, None]
        loss_PS = torch.nn.functional.cross_entropy(
            logits(tokens_PS[:, :-1]).float().cpu().transpose(1, 2), tokens_PS[:, 1:], reduction="none")
        nats += float(loss_PS[real_PS].double().sum())
        tokens += int(real_PS.sum())
    return nats, tokens
