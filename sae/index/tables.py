"""From a merged shard to the tables of a build (`sae.index.schema`), as Arrow.

Shapes: L latents, V vocabulary, K histogram bins, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from sae.autoencoder import Autoencoder
from sae.corpus import Corpus
from sae.index.classes import TokenClasses
from sae.index.company import SAMPLED
from sae.index.contexts import choose, choose_near, context_table, window_tokens
from sae.index.directions import logit_effects, planar_map
from sae.index.latents import latent_table
from sae.index.pairs import TopPairs, rank_within, with_lift
from sae.index.scan import encode
from sae.index.schema import LOGIT_BINS
from sae.index.shard import Frame, Shard
from sae.lm import LanguageModel
from sae.specs import IndexSettings

LISTED_LOGITS = 10
SAMPLES = 48
SAMPLE_LATENTS = 12


def make_tables(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, shard: Shard, frame: Frame,
    settings: IndexSettings, check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """All tables but `meta`, and what this step adds to it.  `check` may raise to stop."""
    tokens = with_lift(shard.tokens, shard.n_tokens_L, shard.l0_token_V2[:, 0])
    check()
    effects = logit_effects(sae.W_dec_LD, lm.unembedding(sae.out_hook), LISTED_LOGITS, LOGIT_BINS, check)
    map_L2, map_kind = planar_map(sae.W_dec_LD, shard.n_tokens_L > 0)
    chosen = choose(shard.peaks, corpus, shard.hist_LK, settings.top_contexts, frame.n_strong, settings.band_contexts)
    check()
    bos = shard.l0_bos_hist
    tables = {
        "token": _token_table(lm, shard),
        "document": pa.table({"doc": np.arange(len(corpus.documents), dtype=np.int32), "name": corpus.documents}),
        "latent": latent_table(sae, shard, frame, tokens, effects, map_L2, check),
        "context": pa.concat_tables([context_table(shard.peaks, chosen, corpus),
                                     context_table(shard.near, choose_near(shard.near), corpus)]),
        "token_latent": _token_latent_table(tokens),
        "l0_hist": _l0_table(shard),
        "l0_position": _l0_position_table(shard),
        "l0_token": _l0_token_table(shard),
        **_sample_tables(lm, sae, corpus, {
            "any": contexts[:SAMPLES], "fewest": shard.extremes.fewest().numpy(),
            "most": shard.extremes.most().numpy()}),
    }
    return tables, {
        "logit_edges": effects.edges.tolist(), "bos_l0": int(bos.argmax()) if int(bos.sum()) else None,
        "median_resid_norm": shard.median_norm(), "company_tokens": SAMPLED, "map": map_kind,
    }


def _token_table(lm: LanguageModel, shard: Shard) -> pa.Table:
    pieces, special = lm.vocabulary()
    return pa.table({"token": np.arange(len(pieces), dtype=np.int32), "piece": pa.array(pieces, pa.binary()),
                     "special": special, "n": shard.l0_token_V2[:, 0].numpy()})


def _token_latent_table(pairs: TopPairs) -> pa.Table:
    return pa.table({"token": pairs.token_N.int().numpy(), "latent": pairs.latent_N.int().numpy(),
                     "n": pairs.n_N.numpy(), "max_act": pairs.max_N.numpy(), "lift": pairs.lift_N.numpy()})


def _l0_table(shard: Shard) -> pa.Table:
    used = (shard.l0_hist + shard.l0_bos_hist).nonzero().squeeze(1)
    return pa.table({"l0": used.int().numpy(), "n": shard.l0_hist[used].numpy(),
                     "n_bos": shard.l0_bos_hist[used].numpy()})


def _l0_position_table(shard: Shard) -> pa.Table:
    n, total, square = shard.l0_position_S3.T.contiguous().numpy()
    seen = n > 0
    fvu = pa.array(shard.fvu_S().numpy()[seen], from_pandas=True)
    return pa.table({"position": np.flatnonzero(seen).astype(np.int32), "n": n[seen], "sum_l0": total[seen],
                     "sum_sq_l0": square[seen], "fvu": fvu})


def _l0_token_table(shard: Shard) -> pa.Table:
    seen = shard.l0_token_V2[:, 0].nonzero().squeeze(1)
    n, total = shard.l0_token_V2[seen].T.contiguous().numpy()
    return pa.table({"token": seen.int().numpy(), "n": n, "sum_l0": total})


def _sample_tables(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: dict[str, np.ndarray]
) -> dict[str, pa.Table]:
    """Whole contexts, by kind, with the L0 and the strongest latents of every position, BOS included.

    Those of any kind are the first of the scan's order, which is a shuffle of the text: the same for
    every SAE that is indexed over this text, so that two SAEs can be shown side by side.
    """
    chosen = np.concatenate(list(contexts.values()))
    length = corpus.length[chosen].astype(np.int64)
    l0, latents = [], []
    for firings, tokens, _ in encode(lm, sae, corpus, chosen, TokenClasses.of(lm.vocabulary()[0])):
        l0.append(tokens.l0_B)
        token_N = torch.arange(len(tokens.l0_B)).repeat_interleave(tokens.l0_B)
        order = torch.argsort(firings.value_N, descending=True, stable=True)
        order = order[torch.argsort(token_N[order], stable=True)]
        listed = order[rank_within(token_N) < SAMPLE_LATENTS]
        latents.append((tokens.l0_B.clamp(max=SAMPLE_LATENTS), firings.latent_N[listed], firings.value_N[listed]))
    offsets = pa.array(np.concatenate([[0], np.cumsum(length)]), pa.int32())
    count_B, latent_N, value_N = (torch.cat(column) for column in zip(*latents, strict=True))
    list_offsets = pa.array(np.concatenate([[0], count_B.cumsum(0).numpy()]), pa.int32())
    return {
        "sample": pa.table({
            "sample": np.arange(len(chosen), dtype=np.int32),
            "kind": [kind for kind, some in contexts.items() for _ in some], "ctx": chosen, "doc": corpus.doc[chosen],
            "doc_offset": corpus.offset[chosen],
            "tokens": window_tokens(corpus, chosen, np.zeros_like(length), length),
            "l0": pa.ListArray.from_arrays(offsets, torch.cat(l0).int().numpy())}),
        "sample_latent": pa.table({
            "sample": np.repeat(np.arange(len(chosen), dtype=np.int32), length),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in length]),
            "latents": pa.ListArray.from_arrays(list_offsets, latent_N.int().numpy()),
            "acts": pa.ListArray.from_arrays(list_offsets, value_N.numpy())}),
    }
