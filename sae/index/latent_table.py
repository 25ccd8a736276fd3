"""The build's `latent` table: one row per latent, with everything that a page shows except the contexts.

Shapes: L latents, V vocabulary, K listed, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.index.cofiring import SAMPLED, CofiringPairs, cofiring_pairs, implied
from sae.index.directions import LogitEffects, nearest
from sae.index.firing_rules import KINDS, Counts, Rules, find_rules
from sae.index.flags import flags, largest_in_row
from sae.index.scales import IndexScales
from sae.index.shard import Shard
from sae.index.token_counts import PairCounts, TopPairs, with_lift
from sae.kernels.segments import rank_within
from sae.kernels.sorting import stable_argsort
from sae.store.arrow_columns import arrow_column, floats, list_column, list_offsets
from sae.store.records import CLASSES

LISTED_TOKENS = 10
LISTED_LATENTS = 8


def latent_columns(
    sae: Autoencoder, shard: Shard, scales: IndexScales
) -> list[Callable[[Callable[[], None]], dict[str, Any]]]:
    """Return functions that each make some of the table's columns.

    Each takes a function that it calls now and then, and which may raise to stop.
    """
    alive_L = shard.n_tokens_L > 0
    return [
        lambda check: _cofiring_columns(shard, check),
        lambda check: _nearest_columns("neighbour", sae.W_dec_LD, alive_L, check),
        lambda check: _nearest_columns("encoder_neighbour", sae.W_enc_LD, alive_L, check),
        lambda check: _rule_columns(shard),
        lambda check: _next_columns(shard, scales),
        lambda check: _count_columns(shard, scales),
        lambda check: _direction_columns(sae),
    ]


def _count_columns(shard: Shard, scales: IndexScales) -> dict[str, Any]:
    """Make the columns that are counts and sums over tokens, and the flags."""
    counted, n_tokens_L = int(shard.token_2V.sum()), shard.n_tokens_L
    top_token_n_L = torch.zeros(scales.n_latents, dtype=torch.int64).scatter_reduce_(
        0, shard.tokens.key_N // scales.d_vocab, shard.tokens.n_N, "amax")
    marks = flags(n_tokens_L, counted, top_token_n_L, largest_in_row(shard.position_LS), shard.class_2LC.sum(dim=0))
    centre_S = (torch.arange(scales.position_bins).double() + 0.5) * scales.context_length / scales.position_bins - 0.5

    def ratio(value_L: Tensor) -> pa.Array:
        """Divide by the number of firings; null for a latent that never fires."""
        return _floats(value_L.double() / n_tokens_L)

    return {
        "latent": np.arange(scales.n_latents, dtype=np.int32), "n_tokens": n_tokens_L.numpy(),
        "n_contexts": shard.n_contexts_L.numpy(), "density": (n_tokens_L.double() / counted).numpy(),
        "max_act": shard.max_L.numpy(), "mean_act": _floats(shard.mean_L(scales)),
        "std_act": _floats(shard.std_L(scales)), "skew_act": _floats(shard.skew_L()),
        "hist": _rows(shard.hist_LK.numpy().astype(np.uint32)),
        "mean_position": ratio(shard.position_LS.double() @ centre_S), "mean_l0": ratio(shard.sum_l0_L),
        "n_first": shard.first_L.numpy(), "n_last": shard.last_L.numpy(),
        **{name: mark.numpy() for name, mark in marks.items()}}


def _direction_columns(sae: Autoencoder) -> dict[str, Any]:
    same_width = sae.W_enc_LD.shape == sae.W_dec_LD.shape
    cosine_L = (torch.nn.functional.cosine_similarity(sae.W_enc_LD, sae.W_dec_LD, eps=1e-12) if same_width
                else torch.full((sae.n_latents,), torch.nan))
    return {"encoder_norm": sae.W_enc_LD.norm(dim=1).cpu().numpy(), "encoder_decoder_cos": _floats(cosine_L.cpu())}


def map_columns(map_L2: Tensor) -> dict[str, Any]:
    return {"map_x": _floats(map_L2[:, 0]), "map_y": _floats(map_L2[:, 1])}


def token_columns(tokens: TopPairs, n_latents: int) -> dict[str, Any]:
    """Make the columns of the tokens that each latent fires on most, with their lift."""
    top = _token_lists(tokens, n_latents)
    return {"top_tokens": top["token"], "top_token_n": top["n"], "top_token_lift": top["lift"],
            "top_token_max": top["max"]}


def _next_columns(shard: Shard, scales: IndexScales) -> dict[str, Any]:
    totals_L = torch.zeros(scales.n_latents, dtype=torch.int64)
    totals_L.index_add_(0, shard.nexts.key_N // scales.d_vocab, shard.nexts.n_N)
    following = _token_lists(with_lift(shard.nexts, totals_L, shard.following_2V.sum(dim=0)), scales.n_latents)
    return {"next_tokens": following["token"], "next_token_n": following["n"], "next_token_lift": following["lift"]}


def no_logit_columns(n_latents: int) -> dict[str, Any]:
    """Return the columns of a build whose latents have no effect on logits."""
    rows, values = pa.list_(pa.int32()), pa.list_(pa.float32())
    kinds = {"logit_pos": rows, "logit_pos_value": values, "logit_neg": rows, "logit_neg_value": values,
             "logit_hist": pa.list_(pa.uint32()), "logit_std": pa.float32(), "logit_skew": pa.float32(),
             "logit_kurtosis": pa.float32()}
    return {name: pa.nulls(n_latents, kind) for name, kind in kinds.items()}


def logit_columns(effects: LogitEffects) -> dict[str, Any]:
    return {
        "logit_pos": _rows(effects.top_LK.numpy().astype(np.int32)),
        "logit_pos_value": _rows(effects.top_value_LK.numpy()),
        "logit_neg": _rows(effects.bottom_LK.numpy().astype(np.int32)),
        "logit_neg_value": _rows(effects.bottom_value_LK.numpy()),
        "logit_hist": _rows(effects.hist_LK.numpy().astype(np.uint32)), "logit_std": effects.std_L.numpy(),
        "logit_skew": effects.skew_L.numpy(), "logit_kurtosis": effects.kurtosis_L.numpy()}


def _nearest_columns(name: str, W_LD: Tensor, alive_L: Tensor, check: Callable[[], None]) -> dict[str, Any]:
    ids_LK, cosines_LK = (found.numpy() for found in nearest(W_LD, alive_L, LISTED_LATENTS, check))
    listed_LK = ~np.isnan(cosines_LK)
    offsets = list_offsets(np.concatenate([[0], np.cumsum(listed_LK.sum(axis=1))]))
    return {f"{name}s": list_column(offsets, ids_LK[listed_LK].astype(np.int32)),
            f"{name}_cos": list_column(offsets, cosines_LK[listed_LK])}


def _cofiring_columns(shard: Shard, check: Callable[[], None]) -> dict[str, Any]:
    density_L = shard.n_tokens_L.double() / int(shard.token_2V.sum())
    pairs, sampled_L = cofiring_pairs(shard.cofiring, density_L, SAMPLED, check)
    rule = implied(pairs, sampled_L, shard.n_tokens_L)
    phi_L = torch.full((len(density_L),), torch.nan, dtype=torch.float64)
    phi_L.scatter_reduce_(0, pairs.latent_N, pairs.phi_N, "amax", include_self=False)
    columns: dict[str, Any] = {"max_phi": _floats(phi_L)}
    backwards = CofiringPairs(pairs.other_N, pairs.latent_N, pairs.given_N, pairs.lift_N, pairs.phi_N)
    for name, some, where in (("together", pairs, pairs.phi_N > 0), ("implies", pairs, rule),
                              ("implied_by", backwards, rule)):
        columns |= _latent_lists(name, some, where, len(density_L))
    return columns


def _latent_lists(name: str, pairs: CofiringPairs, where: Tensor, n_latents: int) -> dict[str, Any]:
    """Make list columns of the pairs of highest φ of each latent."""
    row = where.nonzero().squeeze(1)
    falling = ((1 - pairs.phi_N[row]).clamp(0, 2) * (1 << 30)).long()
    row = row[stable_argsort(pairs.latent_N[row] << 32 | falling)]
    row = row[rank_within(pairs.latent_N[row]) < LISTED_LATENTS]
    offsets = _offsets(torch.bincount(pairs.latent_N[row], minlength=n_latents))
    columns = {"": pairs.other_N.int(), "_given": pairs.given_N.float(), "_lift": pairs.lift_N.float(),
               "_phi": pairs.phi_N.float()}
    return {name + suffix: list_column(offsets, column[row].numpy()) for suffix, column in columns.items()}


def _rule_columns(shard: Shard) -> dict[str, Any]:
    pairs: dict[str, PairCounts] = {"token": shard.tokens, "previous": shard.previous, "next": shard.nexts}
    bases = {"token": shard.token_2V, "previous": shard.preceding_2V, "next": shard.following_2V}
    rules = find_rules(Counts(shard.firings_2L, pairs, bases, shard.class_2LC, shard.class_2C))
    some_L = rules.kind_L >= 0

    def where(values: list[Any]) -> pa.Array:
        return arrow_column([value if some else None for value, some in zip(values, some_L.tolist(), strict=True)])

    kinds = [KINDS[kind] for kind in rules.kind_L.tolist()]
    classes = [name if kind == "class" else None
               for kind, name in zip(kinds, (list(CLASSES)[c] for c in rules.class_L.tolist()), strict=True)]
    return {
        "rule_kind": where(kinds), "rule_tokens": _rule_tokens(rules), "rule_class": arrow_column(classes),
        "rule_precision": where(rules.precision_L.tolist()), "rule_recall": where(rules.recall_L.tolist()),
        "rule_f1": where(rules.f1_L.tolist())}


def _rule_tokens(rules: Rules) -> pa.ListArray:
    named_LK = (rules.token_LK >= 0) & (rules.kind_L >= 0)[:, None]
    return list_column(_offsets(named_LK.sum(dim=1)), rules.token_LK[named_LK].int().numpy())


def _floats(value_L: Tensor) -> pa.Array:
    """Convert to a float column in which NaN is null."""
    return floats(value_L.float().numpy())


def _offsets(counts: Tensor) -> pa.Array:
    return list_offsets(np.concatenate([[0], counts.cumsum(0).numpy()]))


def _rows(matrix: np.ndarray) -> pa.ListArray:
    """Convert the rows of a matrix to a list column."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return list_column(list_offsets(offsets), matrix.reshape(-1))


def _token_lists(pairs: TopPairs, n_latents: int) -> dict[str, pa.ListArray]:
    """Make list columns of the first pairs of each latent."""
    listed = rank_within(pairs.latent_N) < LISTED_TOKENS
    offsets = _offsets(torch.bincount(pairs.latent_N[listed], minlength=n_latents))
    columns = {"token": pairs.token_N.int(), "n": pairs.n_N, "lift": pairs.lift_N, "max": pairs.max_N}
    return {name: list_column(offsets, values[listed].numpy()) for name, values in columns.items()}
