"""The choice of contexts and their tables, against a choice by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.index.context_tables import WINDOW, Chosen, bands_of_bins, choose, place_reader, text_reader
from sae.index.top_contexts import Peaks
from sae.store.schema import BANDS, NEAR_BAND, TOP_BAND
from tests.toys import corpus_of
from tests.unit.sae.index.random_text import SCALES, L, Text

N_TOP, N_BAND = 2, 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_bin_belongs_to_the_band_that_holds_its_middle(hist: list[int]) -> None:
    (bands,) = bands_of_bins(torch.tensor([hist])).tolist()
    for i, (n, band) in enumerate(zip(hist, bands, strict=True)):
        middle = (sum(hist[:i]) + n / 2) / max(sum(hist), 1)
        assert band == next((number for number, _, low, high in BANDS if n and low <= middle < high), 0)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_contexts_are_chosen_as_by_hand(seed: int, n_contexts: int) -> None:
    text = Text(seed, n_contexts, 0.5)
    for name in ("tokens_CS", "length_C"):  # every second context repeats the one before it
        column = getattr(text, name)
        column[1::2] = column[: n_contexts - 1 : 2]
    shard = text.shard(list(range(n_contexts)))
    corpus = corpus_of(text.tokens_CS.numpy(), text.length_C.numpy())
    both, chosen = choose(shard.peaks, shard.near, corpus, shard.hist_LK, N_TOP, SCALES.n_strong, N_BAND)
    band_LK = bands_of_bins(shard.hist_LK)
    rows = list(zip(both.latent_N[chosen.row_N].tolist(), chosen.band_N.tolist(), chosen.rank_N.tolist(),
                    (-both.value_N[chosen.row_N]).tolist(), both.context_N[chosen.row_N].tolist(),
                    chosen.duplicates_N.tolist(), strict=True))
    assert rows == sorted(rows)
    for latent in range(L):
        peaks = [(-float(shard.peaks.value_N[i]), int(shard.peaks.context_N[i]), int(shard.peaks.position_N[i]),
                  int(band_LK[latent, shard.peaks.bin_N[i]]))
                 for i in (shard.peaks.latent_N == latent).nonzero()[:, 0].tolist()]
        windows: dict[Any, list[tuple[float, int, int, int]]] = {}
        for peak in sorted(peaks)[: SCALES.n_strong]:
            _, context, position, _ = peak
            here = text.tokens_CS[context, : text.length_C[context]].tolist()
            windows.setdefault((tuple(here), position), []).append(peak)
        top = [(same[0], len(same)) for same in windows.values()][:N_TOP]

        def text_at(context: int, position: int) -> tuple[Any, int]:
            return tuple(text.tokens_CS[context, : text.length_C[context]].tolist()), position

        top_texts = {text_at(context, position) for (_, context, position, _), _ in top}
        place = {context: position for _, context, position, _ in peaks}
        seen = set(top_texts)

        def shown(band: int, latent: int = latent) -> list[tuple[float, int, int]]:
            return [(act, context, n) for i, b, _, act, context, n in rows if (i, b) == (latent, band)]

        assert shown(TOP_BAND) == [(act, context, n) for (act, context, _, _), n in top]
        on_top = {context for (_, context, _, _), _ in top}
        for band, *_ in BANDS:
            there = [(act, context, 1) for act, context, position, b in peaks
                     if b == band and context not in on_top and text_at(context, position) not in top_texts]
            assert set(shown(band)) <= set(there)
            texts = [text_at(context, place[context]) for _, context, _ in shown(band)]
            assert not seen & set(texts)  # a text is shown once, on the top or in one band
            seen |= set(texts)
            free = {text_at(context, place[context]) for _, context, _ in there}
            assert len(shown(band)) >= min(N_BAND, len(free - seen))
        near = (shard.near.latent_N == latent).nonzero()[:, 0].tolist()
        misses: dict[Any, tuple[float, int, int]] = {}
        for i in sorted(near, key=lambda i: (-float(shard.near.value_N[i]), int(shard.near.context_N[i]))):
            miss = (-float(shard.near.value_N[i]), int(shard.near.context_N[i]), 1)
            misses.setdefault(text_at(miss[1], int(shard.near.position_N[i])), miss)
        assert shown(NEAR_BAND) == sorted(misses.values())
        ranks = [(band, rank) for i, band, rank, *_ in rows if i == latent]
        assert ranks == [(band, rank) for band in range(NEAR_BAND + 1) for rank in range(len(shown(band)))]


@pytest.mark.parametrize(("position", "start"), [(1, 0), (96, 0), (97, 1), (200, 104), (280, 172), (299, 172)])
def test_a_window_holds_the_peak_and_what_fires_around_it(position: int, start: int) -> None:
    tokens = np.arange(600).reshape(2, 300) % 500
    corpus = corpus_of(tokens, np.array([300, 300]))
    fires = torch.tensor(sorted({max(position - 100, 1), max(position - 3, 1), position, min(position + 40, 299)}))
    value = torch.where(fires == position, 5.0, 1.0) + torch.arange(len(fires)) / 16
    peaks = Peaks.find(3, torch.full_like(fires, 2), torch.ones_like(fires), fires, value, torch.zeros(0))
    one = torch.zeros(1, dtype=torch.int64)
    chosen = Chosen(one, one, one, one + 1)
    (row,) = place_reader(peaks, chosen, corpus).read_all().to_pylist()
    assert (row["latent"], row["ctx"], row["start"], row["start"] + row["peak"]) == (2, 1, start, position)
    assert (row["first"], row["n"]) == (start, WINDOW)
    firings = zip(fires.tolist(), value.tolist(), strict=True)
    inside = [(p - start, v) for p, v in firings if start <= p < start + WINDOW]
    assert list(zip(row["pos"], row["val"], strict=True)) == inside
    assert row["val"][row["pos"].index(row["peak"])] == row["act"] == max(value.tolist())
    assert text_reader(peaks, chosen, corpus).read_all() == pa.table(
        {"text": [1], "tokens": pa.array([tokens[1].tolist()], pa.list_(pa.int32()))})
