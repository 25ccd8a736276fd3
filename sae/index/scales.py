"""Scales and sizes that all shards of a build share, so that their sums can be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.index.forward import ForwardPass
from sae.lm.bridge import LanguageModel
from sae.specs.registry import IndexSettings
from sae.store.schema import HIST_BINS

_MAX_POSITION_BINS = 256


@dataclass(frozen=True)
class IndexScales:
    """Scales and sizes of a build's sums."""

    n_latents: int
    d_vocab: int
    context_length: int
    hist_edges: tuple[float, ...]  # upper edges of all bins but the last, in rising order
    unit: float  # a power of two above the largest activation expected
    norm_unit: float  # a power of two above the largest norm of the SAE's target
    n_strong: int
    n_bin: int
    n_near: int

    @property
    def n_bins(self) -> int:
        return len(self.hist_edges) + 1

    @property
    def edges(self) -> Tensor:
        return torch.tensor(self.hist_edges, dtype=torch.float32)

    @property
    def position_bins(self) -> int:
        return min(self.context_length, _MAX_POSITION_BINS)


def make_scales(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, first: Sequence[ForwardPass], settings: IndexSettings
) -> tuple[IndexScales, float]:
    """Return the scales, and the lower edge of the first histogram bin.

    The bins are log-spaced over the activations of the first passes, from their smallest to twice their largest.
    """
    values = torch.cat([one.firings.value_N[one.firings.position_N > 0] for one in first])
    counted = torch.cat([one.tokens.x_BD[one.tokens.position_B > 0].norm(dim=1) for one in first])
    norm = float(counted.max()) if len(counted) else 0.0  # contexts of BOS alone have no counted tokens
    low, high = (float(values.min()), 2 * float(values.max())) if len(values) else (1e-3, 1.0)
    edges = np.geomspace(low * (1 - 1e-6), high, HIST_BINS + 1)
    scales = IndexScales(
        n_latents=sae.n_latents, d_vocab=lm.info.d_vocab, context_length=corpus.context_length,
        hist_edges=tuple(float(edge) for edge in edges[1:-1]), unit=float(2.0 ** np.ceil(np.log2(high))),
        norm_unit=float(2.0 ** np.ceil(np.log2(max(norm, 1e-30)))),
        n_strong=4 * settings.top_contexts, n_bin=2 * settings.band_contexts, n_near=settings.near_misses)
    return scales, float(edges[0])
