"""The text that a measure reads: activations of counted tokens, with their places.

Counted tokens are real positions except BOS, without the tokens that the SAE's training left out.

Shapes: N tokens, P contexts, S positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.data.activations import context_batches
from sae.evaluation.measure import Progress, Subject
from sae.evaluation.metrics import counted_tokens, left_out_of, sites

_PASS_TOKENS = 4096


@dataclass(frozen=True)
class TokenBatch:
    """The counted tokens of one forward pass, in the order of the text."""

    context_N: Tensor  # numbers of the contexts in the corpus
    position_N: Tensor  # positions in the context, from 1 on
    token_N: Tensor
    x_ND: Tensor  # the input of the SAE
    target_ND: Tensor  # the target of the reconstruction

    def of(self, keep_N: Tensor) -> TokenBatch:
        """Return some of the tokens."""
        return TokenBatch(self.context_N[keep_N], self.position_N[keep_N], self.token_N[keep_N], self.x_ND[keep_N],
                          self.target_ND[keep_N])


def read_tokens(
    subject: Subject, contexts: np.ndarray, progress: Progress, *, max_tokens: int = _PASS_TOKENS,
    with_bos: bool = False,
) -> Iterator[TokenBatch]:
    """Yield the counted tokens of the contexts, one forward pass at a time.

    With `with_bos`, BOS is there, too, and nothing is left out.
    """
    lm, sae, total, done = subject.model, subject.sae, counted_tokens(subject.corpus, contexts), 0
    left_out = left_out_of(sae)
    for rows, tokens_PS, real_PS in context_batches(subject.corpus, contexts, max_tokens=max_tokens):
        done += int(real_PS.sum()) - len(rows)
        real_PS[:, 0] = with_bos
        real_PS = real_PS.to(lm.device)
        found = [x_PSD[real_PS] for x_PSD in lm.activations_at(tokens_PS.to(lm.device), sites(sae))]
        where = real_PS.nonzero().cpu()
        batch = TokenBatch(torch.from_numpy(rows.astype(np.int64))[where[:, 0]], where[:, 1],
                           tokens_PS[real_PS.cpu()], found[0], found[-1])
        if left_out and not with_bos:
            batch = batch.of(~left_out.mask(batch.x_ND, batch.token_N.to(lm.device)).cpu())
        progress(min(done, total), total)
        yield batch


def stages(progress: Progress, *sizes: float) -> list[Progress]:
    """Return the progress callbacks of consecutive stages as parts of one whole, in thousandths."""
    total, starts = sum(sizes), [sum(sizes[:i]) for i in range(len(sizes))]

    def stage(start: float, size: float) -> Progress:
        return lambda done, of: progress(round(1000 * (start + size * done / max(of, 1)) / total), 1000)

    return [stage(start, size) for start, size in zip(starts, sizes, strict=True)]


def first_contexts(subject: Subject, n_tokens: int) -> np.ndarray:
    """Return the first of the subject's contexts that have about `n_tokens` counted tokens, or all of them."""
    counts = np.cumsum(subject.corpus.length[subject.contexts].astype(np.int64) - 1)
    return subject.contexts[: int(np.searchsorted(counts, n_tokens)) + 1]


def halves(subject: Subject, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide contexts into two halves that share no document, or no context if there is one document only."""
    doc = subject.corpus.doc[contexts]
    documents = np.random.default_rng(subject.seed).permutation(np.unique(doc))
    if len(documents) < 2:
        return contexts[0::2], contexts[1::2]
    sizes = np.cumsum([int((doc == d).sum()) for d in documents])
    cut = min(len(documents) - 1, int(np.searchsorted(sizes, len(contexts) / 2)) + 1)
    first = np.isin(doc, documents[:cut])
    return contexts[first], contexts[~first]
