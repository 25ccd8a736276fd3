"""A build, with a dense computation of the same numbers to compare it with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch

from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import context_batches
from sae.data.corpus import Corpus
from sae.index.build import build, contexts_to_read
from sae.lm.fast_reader import reader
from sae.specs.registry import IndexSettings
from tests.toys import D, ToyModel, V

SETTINGS = IndexSettings(index_tokens=10_000, top_contexts=3, band_contexts=2, near_misses=2)


@dataclass
class Case:
    """A build's file and the dense activations: one row per token, in no particular order."""

    path: Path
    sae: Autoencoder
    lm: Any
    corpus: Corpus
    contexts: np.ndarray
    acts_TL: np.ndarray  # float32, BOS rows included
    pre_TL: np.ndarray
    near_TL: np.ndarray  # silent, and less than a tenth short of firing
    ctx_T: np.ndarray
    pos_T: np.ndarray
    tok_T: np.ndarray
    norm_T: np.ndarray
    small: bool = False  # the text is so small that some checks may find nothing to compare

    def __post_init__(self) -> None:
        self.counted_T = self.pos_T > 0
        self.l0_T = (self.acts_TL > 0).sum(axis=1)
        self.n_counted = int(self.counted_T.sum())
        self.con = duckdb.connect(str(self.path), read_only=True)
        self.meta = {key: json.loads(value) for key, value in self.con.execute("FROM meta").fetchall()}

    def rows(self, query: str) -> list[dict[str, Any]]:
        cursor = self.con.execute(query)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def firing(self, latent: int) -> np.ndarray:
        return np.flatnonzero((self.acts_TL[:, latent] > 0) & self.counted_T)

    def peaks(self, latent: int) -> list[tuple[float, int, int]]:
        """Return (−activation, context, position) of the strongest firing in each context, strongest first."""
        best: dict[int, tuple[float, int, int]] = {}
        for t in self.firing(latent):
            row = (-float(self.acts_TL[t, latent]), int(self.ctx_T[t]), int(self.pos_T[t]))
            best[row[1]] = min(best.get(row[1], row), row)
        return sorted(best.values())

    def text_at(self, context: int, position: int) -> tuple[int, ...]:
        """Return the tokens around a peak by which two contexts count as the same; −1 outside the context."""
        places = range(position - 16, position + 9)
        inside = range(int(self.corpus.length[context]))
        return tuple(int(self.corpus.tokens[context, place]) if place in inside else -1 for place in places)


def dense_case(path: Path, lm: Any, sae: Autoencoder, corpus: Corpus, settings: IndexSettings = SETTINGS) -> Case:
    """Make a build, and compute all pre-activations and the selection rule densely."""
    build(lm, sae, corpus, settings, path, provenance={"run": "r", "command": "c"})
    contexts = contexts_to_read(corpus, settings.index_tokens)
    parts: list[tuple[np.ndarray, ...]] = []
    read = reader(lm, [sae.hook])  # the build reads the same bits; the reader has its own tests
    for rows, tokens_PS, real_PS in context_batches(corpus, contexts):
        x_TD = read(tokens_PS)[0][real_PS]
        pre_TL = sae.pre_activations(x_TD)
        if sae.config["architecture"] == "batch_topk":
            threshold = torch.full_like(pre_TL, max(sae.sparsity.threshold or 0.0, 0.0))
            kept_TL = pre_TL > threshold
            floor_TL = threshold - 0.1 * (threshold - sae.b_enc_L).clamp(min=0)
        else:
            kept_TL = torch.zeros_like(pre_TL, dtype=torch.bool)
            kept_TL.scatter_(1, pre_TL.argsort(dim=1, descending=True)[:, : sae.k], True)
            threshold = pre_TL.sort(dim=1, descending=True).values[:, sae.k - 1 : sae.k].clamp(min=0)
            floor_TL = threshold - 0.1 * threshold
        acts_TL = torch.where(kept_TL & (pre_TL > 0), pre_TL, 0.0)
        near_TL = (pre_TL > floor_TL) & (acts_TL == 0)
        row_T, pos_T = real_PS.nonzero(as_tuple=True)
        parts.append((acts_TL.numpy(), pre_TL.numpy(), near_TL.numpy(), rows[row_T], pos_T.numpy(),
                      tokens_PS[real_PS].numpy(), x_TD.norm(dim=1).numpy()))
    return Case(path, sae, lm, corpus, contexts, *(np.concatenate(column) for column in zip(*parts, strict=True)))


class SmoothModel(ToyModel):
    """A toy model without ties, because a choice of the k largest could settle them in either way."""

    def __init__(self) -> None:
        super().__init__()
        self.token_VD = torch.randn(V, D, generator=torch.Generator().manual_seed(8))
