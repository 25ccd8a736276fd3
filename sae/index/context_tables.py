"""Selection of the contexts that a page shows, out of the peaks that a scan kept.

The top contexts come strongest first.  Contexts with the same window text share one row, and
`duplicates` says how many of the latent's strongest contexts share it.  The bands are quantiles of
the latent's firing activations, cut at bins of its histogram.  Each band holds a uniform sample of
contexts by their peak, without texts that the top or another row of the bands shows already.

Shapes: N rows (one latent in one context), S positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae.data.corpus import Corpus
from sae.index.top_contexts import Peaks, sample_rank
from sae.kernels.hashing import counter, mix64
from sae.kernels.segments import rank_within
from sae.store.arrow_columns import arrow_table, list_column, list_offsets
from sae.store.schema import BANDS, NEAR_BAND, ROW_GROUP

WINDOW = 128  # tokens shown at most
_BEFORE_PEAK = 96  # tokens shown before the peak, where the context is longer than the window
_SPARE = 8  # times as many candidates as a band shows, so that repeated texts leave enough
_SAME_BEFORE, _SAME_AFTER = 16, 8  # windows count as equal if they agree on this many tokens around the peak


@dataclass
class Chosen:
    """The rows of the peaks that are shown, in the order of the table."""

    row_N: Tensor
    band_N: Tensor
    rank_N: Tensor
    duplicates_N: Tensor


def choose(
    peaks: Peaks, near: Peaks, corpus: Corpus, hist_LK: Tensor, n_top: int, n_strong: int, n_band: int
) -> tuple[Peaks, Chosen]:
    """Choose the top contexts, the band samples and the near misses of every latent.

    Returns `peaks` and `near` joined, and the chosen rows of them.
    """
    top_row, top_duplicates, text = _distinct_strongest(peaks, corpus, n_top, n_strong)
    rest = torch.ones(len(peaks.key_N), dtype=torch.bool)
    rest[top_row] = False
    band_LK = bands_of_bins(hist_LK)
    band_N = band_LK[peaks.latent_N, peaks.bin_N.long()]
    shown = top_row
    for band, *_ in BANDS:
        row = (rest & (band_N == band)).nonzero().squeeze(1)
        rank = sample_rank(peaks.key_N[row], peaks.latent_N[row])
        row, rank = row[rank < _SPARE * n_band], rank[rank < _SPARE * n_band]
        row = row[torch.argsort(rank, stable=True)]
        texts = np.concatenate([text, _texts(row, peaks, corpus)])
        fresh = _first_of_each(texts)[len(shown) :]
        row, texts = row[torch.from_numpy(fresh - len(shown))], texts[fresh]
        kept = sample_rank(peaks.key_N[row], peaks.latent_N[row]) < n_band
        shown, text = torch.cat([shown, row[kept]]), np.concatenate([text, texts[kept.numpy()]])
    row = shown[len(top_row) :]
    near_row = torch.argsort(near.value_N, descending=True, stable=True)
    near_row = near_row[torch.from_numpy(_first_of_each(_texts(near_row, near, corpus)))].sort().values
    near_row = near_row + len(peaks.key_N)
    row_N = torch.cat([top_row, row, near_row])
    band_N = torch.cat([torch.zeros_like(top_row), band_N[row], torch.full_like(near_row, NEAR_BAND)])
    duplicates_N = torch.cat([top_duplicates, torch.ones_like(row), torch.ones_like(near_row)])
    both = peaks.joined(near)
    return both, _ordered(both, row_N, band_N, duplicates_N)


def bands_of_bins(hist_LK: Tensor) -> Tensor:
    """Return the band of each histogram bin of each latent (0: none), by the quantile at the bin's middle."""
    total_L1 = hist_LK.sum(dim=1, keepdim=True).clamp(min=1)
    middle_LK = (hist_LK.cumsum(dim=1) - hist_LK / 2) / total_L1
    band_LK = torch.zeros_like(hist_LK)
    for band, _, low, high in BANDS:
        band_LK[(middle_LK >= low) & (middle_LK < high) & (hist_LK > 0)] = band
    return band_LK


def _distinct_strongest(
    peaks: Peaks, corpus: Corpus, n_top: int, n_strong: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return the top rows by latent, strongest first, how many rows have each one's text, and the texts' hashes."""
    rank_N = peaks.strength_rank()
    row = (rank_N < n_strong).nonzero().squeeze(1)
    row = row[torch.argsort(peaks.latent_N[row] * n_strong + rank_N[row])]
    latent = peaks.latent_N[row]
    text = _texts(row, peaks, corpus)
    _, first, count = np.unique(text, return_index=True, return_counts=True)  # first: the strongest of its kind
    order = np.argsort(first)
    kept, duplicates = torch.from_numpy(first[order]), torch.from_numpy(count[order])
    shown = rank_within(latent[kept]) < n_top
    return row[kept[shown]], duplicates[shown], text[kept[shown].numpy()]


def _texts(row: Tensor, peaks: Peaks, corpus: Corpus) -> np.ndarray:
    return _window_hash(corpus, peaks.context_N[row].numpy(), peaks.position_N[row].numpy(),
                        peaks.latent_N[row].numpy())


def _first_of_each(text: np.ndarray) -> np.ndarray:
    """Return the index of the first row with each latent and text, ascending."""
    _, first = np.unique(text, return_index=True)
    return np.sort(first)


def _window_hash(corpus: Corpus, context: np.ndarray, position: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of (latent, tokens around the peak); a position outside the context counts as no token."""
    out = mix64(counter(latent))
    tokens, length = corpus.tokens.reshape(-1), corpus.length[context]
    first = context.astype(np.int64) * corpus.context_length
    for step in range(-_SAME_BEFORE, _SAME_AFTER + 1):
        at = position + step
        inside = (at >= 0) & (at < length)
        token = tokens[np.where(inside, first + at, 0)].astype(np.uint64)
        token += np.uint64(1)
        token *= inside
        out = mix64(out ^ token)
    return out


def _ordered(peaks: Peaks, row_N: Tensor, band_N: Tensor, duplicates_N: Tensor) -> Chosen:
    """Sort the rows by latent, band and falling activation (ties: lowest context)."""
    group_N = peaks.latent_N[row_N] * (NEAR_BAND + 1) + band_N
    # Rows of the peaks are sorted by (latent, context), so equal activations stay in that order
    # only if the first sort starts from it.
    order = torch.argsort(row_N)
    order = order[torch.argsort(peaks.value_N[row_N[order]], descending=True, stable=True)]
    order = order[torch.argsort(group_N[order], stable=True)]
    return Chosen(row_N[order], band_N[order], rank_within(group_N[order]), duplicates_N[order])


def place_reader(peaks: Peaks, chosen: Chosen, corpus: Corpus) -> pa.RecordBatchReader:
    """Return the build's `place` table, made as it is read: with many latents it is the largest table."""
    runs = zip(*(torch.split(column, ROW_GROUP) for column in vars(chosen).values()), strict=True)
    schema = _place_table(peaks, Chosen(*(column[:0] for column in vars(chosen).values())), corpus).schema
    return pa.RecordBatchReader.from_batches(schema, (
        batch for run in runs for batch in _place_table(peaks, Chosen(*run), corpus).to_batches()))


def _place_table(peaks: Peaks, chosen: Chosen, corpus: Corpus) -> pa.Table:
    row = chosen.row_N
    context = peaks.context_N[row].numpy()
    position = peaks.position_N[row].numpy().astype(np.int64)
    length = corpus.length[context].astype(np.int64)
    start = np.clip(position - _BEFORE_PEAK, 0, np.maximum(length - WINDOW, 0))
    shown = np.minimum(length - start, WINDOW)
    payload_position, payload_value, payload_offsets = _payload(peaks, row, start, shown)
    return arrow_table({
        "latent": peaks.latent_N[row].numpy().astype(np.int32),
        "band": chosen.band_N.numpy().astype(np.uint8),
        "rank": chosen.rank_N.numpy().astype(np.uint16),
        "act": peaks.value_N[row].numpy(),
        "ctx": context, "doc": corpus.doc[context], "doc_offset": corpus.offset[context],
        "start": start.astype(np.uint16), "peak": (position - start).astype(np.uint16),
        "text": context.astype(np.int64), "first": start.astype(np.uint16), "n": shown.astype(np.uint16),
        "pos": list_column(payload_offsets, payload_position.astype(np.uint16)),
        "val": list_column(payload_offsets, payload_value),
        "duplicates": chosen.duplicates_N.numpy().astype(np.int32),
    })


def text_reader(peaks: Peaks, chosen: Chosen, corpus: Corpus) -> pa.RecordBatchReader:
    """Return the build's `text` table, made as it is read: every context with a chosen row."""
    used = np.unique(peaks.context_N[chosen.row_N].numpy())

    def table(contexts: np.ndarray) -> pa.Table:
        length = corpus.length[contexts].astype(np.int64)
        return arrow_table({"text": contexts.astype(np.int64),
                         "tokens": window_tokens(corpus, contexts, np.zeros_like(length), length)})

    return pa.RecordBatchReader.from_batches(table(used[:0]).schema, (
        batch for at in range(0, len(used), ROW_GROUP) for batch in table(used[at : at + ROW_GROUP]).to_batches()))


def window_tokens(corpus: Corpus, context: np.ndarray, start: np.ndarray, shown: np.ndarray) -> pa.ListArray:
    """Return the tokens `start` .. `start + shown` of each context as a list column."""
    offsets = np.concatenate([[0], np.cumsum(shown)])
    rows = corpus.tokens[context]
    columns = np.arange(rows.shape[1])
    flat = rows[(columns >= start[:, None]) & (columns < (start + shown)[:, None])].astype(np.int32)
    return list_column(list_offsets(offsets), flat)


def _payload(peaks: Peaks, row: Tensor, start: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return positions and values of all firings of each row's latent in its window, and the rows' offsets."""
    source, owner = peaks.payload(row)
    position = peaks.payload_position_M[source].numpy().astype(np.int64) - start[owner.numpy()]
    inside = (position >= 0) & (position < shown[owner.numpy()])
    kept = np.bincount(owner.numpy()[inside], minlength=len(row))
    offsets = list_offsets(np.concatenate([[0], np.cumsum(kept)]))
    return position[inside], peaks.payload_value_M[source].numpy()[inside], offsets
