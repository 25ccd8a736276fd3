"""From a merged shard to the tables of a build (`sae.index.schema`), as Arrow.

Shapes: L latents, V vocabulary, K histogram bins, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae.autoencoder import Autoencoder
from sae.corpus import Corpus
from sae.index.contexts import choose, context_table, window_tokens
from sae.index.directions import logit_effects, nearest
from sae.index.flags import flags, largest_in_row
from sae.index.pairs import TopPairs, rank_within, with_lift
from sae.index.scan import encode
from sae.index.schema import LOGIT_BINS
from sae.index.shard import Frame, Shard
from sae.lm import LanguageModel
from sae.specs import IndexSettings

LISTED_TOKENS = 10
LISTED_LATENTS = 8
SAMPLES = 48
SAMPLE_LATENTS = 12


def make_tables(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, shard: Shard, frame: Frame,
    settings: IndexSettings, check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """All tables but `meta`, and what this step adds to it.  `check` may raise to stop."""
    tokens = with_lift(shard.tokens, shard.n_tokens_L, shard.l0_token_V2[:, 0])
    check()
    effects = logit_effects(sae.W_dec_LD, lm.unembedding(), LISTED_TOKENS, LOGIT_BINS, check)
    chosen = choose(shard.peaks, corpus, shard.hist_LK, settings.top_contexts, frame.n_strong, settings.band_contexts)
    check()
    bos = shard.l0_bos_hist
    tables = {
        "token": _token_table(lm, shard),
        "document": pa.table({"doc": np.arange(len(corpus.documents), dtype=np.int32), "name": corpus.documents}),
        "latent": _latent_table(sae, shard, frame, tokens, effects, check),
        "context": context_table(shard.peaks, chosen, corpus),
        "token_latent": _token_latent_table(tokens),
        "l0_hist": _l0_table(shard),
        "l0_position": _l0_position_table(shard),
        "l0_token": _l0_token_table(shard),
        **_sample_tables(lm, sae, corpus, contexts),
    }
    return tables, {
        "logit_edges": effects.edges.tolist(), "bos_l0": int(bos.argmax()) if int(bos.sum()) else None,
        "median_resid_norm": shard.median_norm(),
    }


def _token_table(lm: LanguageModel, shard: Shard) -> pa.Table:
    pieces, special = lm.vocabulary()
    return pa.table({"token": np.arange(len(pieces), dtype=np.int32), "piece": pa.array(pieces, pa.binary()),
                     "special": special, "n": shard.l0_token_V2[:, 0].numpy()})


def _latent_table(
    sae: Autoencoder, shard: Shard, frame: Frame, tokens: TopPairs, effects: Any, check: Callable[[], None]
) -> pa.Table:
    L = frame.n_latents
    counted = int(shard.l0_token_V2[:, 0].sum())
    nexts = with_lift(shard.nexts, _totals(shard.nexts, L, frame.d_vocab), shard.followed_V)
    top_tokens, next_tokens = _lists(tokens, L), _lists(nexts, L)
    top_token_n_L = torch.zeros(L, dtype=torch.int64).scatter_reduce_(0, tokens.latent_N, tokens.n_N, "amax")
    marks = flags(shard.n_tokens_L, counted, top_token_n_L, largest_in_row(shard.position_LS))
    neighbours, cosines = nearest(sae.W_dec_LD, ~marks["dead"], LISTED_LATENTS, check)
    centre_S = (torch.arange(frame.position_bins).double() + 0.5) * frame.context_length / frame.position_bins - 0.5
    encoder_norm_L = sae.W_enc_LD.norm(dim=1)
    cosine_L = (sae.W_enc_LD * sae.W_dec_LD).sum(dim=1) / encoder_norm_L.clamp(min=1e-12)

    def ratio(value_L: Tensor) -> pa.Array:
        """Per firing token; null for a latent that never fires."""
        return pa.array((value_L.double() / shard.n_tokens_L).float().numpy(), from_pandas=True)

    return pa.table({
        "latent": np.arange(L, dtype=np.int32), "n_tokens": shard.n_tokens_L.numpy(),
        "n_contexts": shard.n_contexts_L.numpy(), "density": (shard.n_tokens_L.double() / counted).numpy(),
        "max_act": shard.max_L.numpy(), "mean_act": pa.array(shard.mean_L(frame).float().numpy(), from_pandas=True),
        "std_act": pa.array(shard.std_L(frame).float().numpy(), from_pandas=True),
        "hist": _rows(shard.hist_LK.numpy().astype(np.uint32)),
        "mean_position": ratio(shard.position_LS.double() @ centre_S),
        **{name: mark.numpy() for name, mark in marks.items()},
        "top_tokens": top_tokens["token"], "top_token_n": top_tokens["n"], "top_token_lift": top_tokens["lift"],
        "top_token_max": top_tokens["max"],
        "next_tokens": next_tokens["token"], "next_token_n": next_tokens["n"], "next_token_lift": next_tokens["lift"],
        "logit_pos": _rows(effects.top_LK.numpy().astype(np.int32)),
        "logit_pos_value": _rows(effects.top_value_LK.numpy()),
        "logit_neg": _rows(effects.bottom_LK.numpy().astype(np.int32)),
        "logit_neg_value": _rows(effects.bottom_value_LK.numpy()),
        "logit_hist": _rows(effects.hist_LK.numpy().astype(np.uint32)), "logit_std": effects.std_L.numpy(),
        "logit_skew": effects.skew_L.numpy(), "logit_kurtosis": effects.kurtosis_L.numpy(),
        "neighbours": _rows(neighbours.numpy().astype(np.int32)), "neighbour_cos": _rows(cosines.numpy()),
        "encoder_norm": encoder_norm_L.cpu().numpy(), "encoder_decoder_cos": cosine_L.cpu().numpy(),
        "mean_l0": ratio(shard.sum_l0_L),
    })


def _totals(pairs: Any, n_latents: int, d_vocab: int) -> Tensor:
    return torch.zeros(n_latents, dtype=torch.int64).index_add_(0, pairs.key_N // d_vocab, pairs.n_N)


def _rows(matrix: np.ndarray) -> pa.ListArray:
    """A list column of the rows of a matrix."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))


def _lists(pairs: TopPairs, n_latents: int) -> dict[str, pa.ListArray]:
    """The first rows of each latent as list columns."""
    listed = rank_within(pairs.latent_N) < LISTED_TOKENS
    counts = torch.bincount(pairs.latent_N[listed], minlength=n_latents)
    offsets = pa.array(np.concatenate([[0], counts.cumsum(0).numpy()]), pa.int32())
    columns = {"token": pairs.token_N.int(), "n": pairs.n_N, "lift": pairs.lift_N, "max": pairs.max_N}
    return {name: pa.ListArray.from_arrays(offsets, values[listed].numpy()) for name, values in columns.items()}


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
    return pa.table({"position": np.flatnonzero(seen).astype(np.int32), "n": n[seen], "sum_l0": total[seen],
                     "sum_sq_l0": square[seen]})


def _l0_token_table(shard: Shard) -> pa.Table:
    seen = shard.l0_token_V2[:, 0].nonzero().squeeze(1)
    n, total = shard.l0_token_V2[seen].T.contiguous().numpy()
    return pa.table({"token": seen.int().numpy(), "n": n, "sum_l0": total})


def _sample_tables(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray
) -> dict[str, pa.Table]:
    """Whole contexts with the L0 and the strongest latents of every position, BOS included.

    The contexts are the first of the scan's order, which is a shuffle of the text: the same for
    every SAE that is indexed over this text, so that two SAEs can be shown side by side.
    """
    chosen = contexts[:SAMPLES]
    length = corpus.length[chosen].astype(np.int64)
    l0, latents = [], []
    for firings, tokens, _ in encode(lm, sae, corpus, chosen):
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
            "sample": np.arange(len(chosen), dtype=np.int32), "ctx": chosen, "doc": corpus.doc[chosen],
            "doc_offset": corpus.offset[chosen],
            "tokens": window_tokens(corpus, chosen, np.zeros_like(length), length),
            "l0": pa.ListArray.from_arrays(offsets, torch.cat(l0).int().numpy())}),
        "sample_latent": pa.table({
            "sample": np.repeat(np.arange(len(chosen), dtype=np.int32), length),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in length]),
            "latents": pa.ListArray.from_arrays(list_offsets, latent_N.int().numpy()),
            "acts": pa.ListArray.from_arrays(list_offsets, value_N.numpy())}),
    }
