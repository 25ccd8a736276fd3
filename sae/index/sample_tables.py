"""Whole contexts with the L0 and the strongest latents of every position, BOS included.

Shapes: B positions, one after another; N (position, latent) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae.data.corpus import Corpus
from sae.index.context_tables import window_tokens
from sae.index.forward import Encoder, Firings, Tokens
from sae.index.l0_extremes import Extremes
from sae.kernels.segments import rank_within
from sae.store.arrow_columns import arrow_table, list_column, list_offsets

SAMPLES = 48
LATENTS = 12  # latents listed per position


@dataclass
class Strongest:
    """L0 and the listed latents, strongest first, at each position of some contexts."""

    contexts: int
    l0_B: Tensor
    latent_N: Tensor  # min(L0, LATENTS) latents for each position
    value_N: Tensor

    @classmethod
    def of(cls, firings: Firings, tokens: Tokens) -> Strongest:
        """Select the strongest latents from the firings and tokens of one forward pass."""
        token_N = torch.arange(len(tokens.l0_B)).repeat_interleave(tokens.l0_B)
        order = torch.argsort(firings.value_N, descending=True, stable=True)
        order = order[torch.argsort(token_N[order], stable=True)]
        listed = order[rank_within(token_N) < LATENTS]
        return cls(tokens.n_contexts, tokens.l0_B, firings.latent_N[listed], firings.value_N[listed])


def sample_tables(
    encoder: Encoder, corpus: Corpus, contexts: np.ndarray, extremes: Extremes, read: Sequence[Strongest],
    check: Callable[[], None],
) -> dict[str, pa.Table]:
    """Return the tables `sample` and `sample_latent`.  `read` covers the first contexts, which were read already.

    Samples of kind "any" are the first contexts in the scan's order, a shuffle of the text.  They are
    the same for every SAE indexed over this text, so that pages can show two SAEs side by side.
    """
    kinds = {"any": contexts[:SAMPLES], "fewest": extremes.fewest().numpy(), "most": extremes.most().numpy()}
    chosen = np.concatenate(list(kinds.values()))
    passes = list(read)
    unread = chosen[sum(part.contexts for part in passes) :]
    for part in encoder.passes(unread):
        check()
        one = encoder(part, bos=True)
        passes.append(Strongest.of(one.firings, one.tokens))
    l0_B, latent_N, value_N = (torch.cat([getattr(part, name) for part in passes])
                               for name in ("l0_B", "latent_N", "value_N"))
    length = corpus.length[chosen].astype(np.int64)
    listed = _offsets(l0_B.clamp(max=LATENTS).numpy())
    number = np.arange(len(chosen), dtype=np.int32)
    return {
        "sample": arrow_table({
            "sample": number, "kind": [kind for kind, some in kinds.items() for _ in some], "ctx": chosen,
            "doc": corpus.doc[chosen], "doc_offset": corpus.offset[chosen],
            "tokens": window_tokens(corpus, chosen, np.zeros_like(length), length),
            "l0": list_column(_offsets(length), l0_B.int().numpy())}),
        "sample_latent": arrow_table({
            "sample": np.repeat(number, length),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in length]),
            "latents": list_column(listed, latent_N.int().numpy()),
            "acts": list_column(listed, value_N.numpy())}),
    }


def _offsets(size: np.ndarray) -> pa.Array:
    return list_offsets(np.concatenate([[0], np.cumsum(size)]))
