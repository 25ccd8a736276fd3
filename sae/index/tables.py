"""The tables of a build (`sae.store.schema`), made from a merged shard.

Each is an Arrow table, or an Arrow reader that makes its rows as they are read.  The rows are in the order
that the schema states.

Shapes: L latents, V vocabulary, K histogram bins, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.errors import UserError
from sae.index.cofiring import SAMPLED
from sae.index.context_tables import choose, place_reader, text_reader
from sae.index.directions import logit_effects, planar_map
from sae.index.forward import Encoder
from sae.index.latent_table import latent_columns, logit_columns, map_columns, no_logit_columns, token_columns
from sae.index.sample_tables import Strongest, sample_tables
from sae.index.scales import IndexScales
from sae.index.shard import Shard
from sae.index.threads import run_jobs
from sae.index.token_counts import TopPairs, with_lift
from sae.kernels.sorting import stable_argsort
from sae.lm.bridge import LanguageModel
from sae.lm.sites import EMBED, NO_LOGITS, kind_of
from sae.specs.registry import IndexSettings
from sae.store.arrow_columns import arrow_column, arrow_table, floats
from sae.store.schema import LOGIT_BINS

LISTED_LOGITS = 10
Rows: TypeAlias = pa.Table | pa.RecordBatchReader


@dataclass
class Made:
    """A part of a build: whole tables, columns of the `latent` table, entries of `meta`."""

    tables: dict[str, Rows] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def make_tables(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, shard: Shard, scales: IndexScales,
    settings: IndexSettings, put: Callable[[str, Rows], None], *, read: Sequence[Strongest] = (),
    encoder: Encoder | None = None, check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Make all tables except `meta` in parallel, and pass each to `put` with its name as soon as it is done.

    Returns the entries that this step adds to `meta`.  `read` covers the first contexts, which were read
    already; `encoder` reads others (None: a new one).  `check` may raise to stop.
    """
    latents, meta = {}, {}

    def done(made: Made) -> None:
        for name, table in made.tables.items():
            put(name, table)
        latents.update(made.columns)
        meta.update(made.meta)

    def columns(make: Callable[[Callable[[], None]], dict[str, Any]]) -> Callable[[Callable[[], None]], Made]:
        return lambda check: Made(columns=make(check))

    # It runs the model, as the jobs below do in other threads, and a bridge must be used by one thread at a time.
    unembedding_DV, no_logits = _logit_map(lm, sae.out_hook)
    run_jobs([
        lambda check: _contexts(corpus, shard, scales, settings),
        lambda check: Made(sample_tables(
            encoder or Encoder(lm, sae, corpus), corpus, contexts, shard.extremes, read, check)),
        lambda check: _logits(unembedding_DV, no_logits, sae, check),
        lambda check: _tokens(shard, scales),
        *map(columns, latent_columns(sae, shard, scales)),
        lambda check: _map(sae, shard, settings),
        lambda check: _small(lm, corpus, shard),
    ], done, check)
    put("latent", arrow_table(latents))
    return meta


def _contexts(corpus: Corpus, shard: Shard, scales: IndexScales, settings: IndexSettings) -> Made:
    peaks, chosen = choose(shard.peaks, shard.near, corpus, shard.hist_LK, settings.top_contexts, scales.n_strong,
                           settings.band_contexts)
    return Made({"place": place_reader(peaks, chosen, corpus), "text": text_reader(peaks, chosen, corpus)})


def _tokens(shard: Shard, scales: IndexScales) -> Made:
    tokens = with_lift(shard.tokens, shard.n_tokens_L, shard.l0_token_V2[:, 0])
    return Made({"token_latent": _token_latent_table(tokens)}, token_columns(tokens, scales.n_latents))


def _logit_map(lm: LanguageModel, hook: str) -> tuple[Tensor | None, str]:
    """Return the map from directions at a site to the logits; None and the reason where directions have none."""
    if lm.info.items:
        return None, ""
    try:
        return lm.unembedding(hook), ""
    except UserError as error:
        if kind_of(hook) not in (*NO_LOGITS, EMBED):
            raise
        return None, str(error).removeprefix("site: ")


def _logits(unembedding_DV: Tensor | None, reason: str, sae: Autoencoder, check: Callable[[], None]) -> Made:
    if unembedding_DV is None:
        said = {"no_logits": reason} if reason else {}
        return Made(columns=no_logit_columns(sae.n_latents), meta={"logit_edges": None, **said})
    effects = logit_effects(sae.W_dec_LD, unembedding_DV, LISTED_LOGITS, LOGIT_BINS, check)
    return Made(columns=logit_columns(effects), meta={"logit_edges": effects.edges.tolist()})


def _map(sae: Autoencoder, shard: Shard, settings: IndexSettings) -> Made:
    map_L2, kind = planar_map(sae.W_dec_LD, shard.n_tokens_L > 0, settings.map)
    return Made(columns=map_columns(map_L2), meta={"map": kind})


def _small(lm: LanguageModel, corpus: Corpus, shard: Shard) -> Made:
    bos = shard.l0_bos_hist
    return Made({
        "token": _token_table(lm, shard),
        "document": arrow_table({"doc": np.arange(len(corpus.documents), dtype=np.int32), "name": corpus.documents}),
        "l0_hist": _l0_table(shard), "l0_position": _l0_position_table(shard), "l0_token": _l0_token_table(shard),
    }, meta={
        "bos_l0": int(bos.argmax()) if int(bos.sum()) else None, "median_resid_norm": shard.median_norm(),
        "company_tokens": SAMPLED})


def _token_table(lm: LanguageModel, shard: Shard) -> pa.Table:
    pieces, special = lm.vocabulary()
    return arrow_table({"token": np.arange(len(pieces), dtype=np.int32), "piece": arrow_column(pieces),
                     "special": special, "n": shard.l0_token_V2[:, 0].numpy()})


def _token_latent_table(pairs: TopPairs) -> pa.Table:
    # Stable: equal counts stay in the order of latents.
    order = stable_argsort(pairs.token_N << 32 | ((1 << 32) - 1 - pairs.n_N))
    columns = {"token": pairs.token_N.int(), "latent": pairs.latent_N.int(), "n": pairs.n_N, "max_act": pairs.max_N,
               "lift": pairs.lift_N}
    return arrow_table({name: column[order].numpy() for name, column in columns.items()})


def _l0_table(shard: Shard) -> pa.Table:
    used = (shard.l0_hist + shard.l0_bos_hist).nonzero().squeeze(1)
    return arrow_table({"l0": used.int().numpy(), "n": shard.l0_hist[used].numpy(),
                     "n_bos": shard.l0_bos_hist[used].numpy()})


def _l0_position_table(shard: Shard) -> pa.Table:
    n, total, square = shard.l0_position_S3.T.contiguous().numpy()
    seen = n > 0
    fvu = floats(shard.fvu_S().numpy()[seen])
    return arrow_table({"position": np.flatnonzero(seen).astype(np.int32), "n": n[seen], "sum_l0": total[seen],
                     "sum_sq_l0": square[seen], "fvu": fvu})


def _l0_token_table(shard: Shard) -> pa.Table:
    seen = shard.l0_token_V2[:, 0].nonzero().squeeze(1)
    n, total = shard.l0_token_V2[seen].T.contiguous().numpy()
    return arrow_table({"token": seen.int().numpy(), "n": n, "sum_l0": total})
