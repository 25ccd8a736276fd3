"""A language model's score on held-out source files, in bits per byte.

Bits per byte are the negative log-likelihood of a text, in bits, divided by the number of its UTF-8 bytes.
They do not depend on the vocabulary.
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
    """The loss per token on `tokens` predicted tokens, which spell `bytes` bytes of text."""

    tokens: int
    bytes: int
    nats_per_token: float

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_token * self.tokens / self.bytes / math.log(2)


def score_contexts(logits: Logits, documents: Sequence[list[int]], n_bytes: int, context: int, bos: int) -> Score:
    """Score documents in contexts of `context` positions that each begin with BOS, as saescope uses a model.

    Every text token is predicted once.
    """
    rows = [[bos, *ids[start : start + context - 1]]
            for ids in documents for start in range(0, len(ids), context - 1)]
    nats, tokens = _loss(logits, rows, bos)
    return Score(tokens, n_bytes, nats / tokens)


def score_stream(logits: Logits, documents: Sequence[list[int]], n_bytes: int, context: int, bos: int) -> Score:
    """Score documents as one stream, with BOS before each, in windows of `context` inputs without a BOS of their own.

    BOS marks the end of a document and is predicted like any token.  The incomplete window at the end is left out;
    its bytes are estimated from the stream's mean number of bytes per token.
    """
    stream = [token for ids in documents for token in (bos, *ids)]
    rows = [stream[start : start + context + 1] for start in range(0, len(stream) - context - 1, context)]
    nats, tokens = _loss(logits, rows, bos)
    return Score(tokens, round(n_bytes * tokens / len(stream)), nats / tokens)


@torch.no_grad()
def _loss(logits: Logits, rows: list[list[int]], pad: int) -> tuple[float, int]:
    """Return the summed negative log-likelihood (nats) of all tokens but each row's first, and their number."""
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
