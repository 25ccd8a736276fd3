"""The peaks that a scan keeps, against a search by hand."""

from __future__ import annotations

from random import Random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.index.top_contexts import Peaks, sample_rank
from tests.unit.sae.index.random_text import SCALES, L, Text


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_kept_peaks_are_the_strongest_and_a_few_of_every_bin(seed: int, n_contexts: int) -> None:
    text = Text(seed, n_contexts, 0.5)
    peaks = text.shard(list(range(n_contexts))).peaks
    for latent in range(L):
        expected: list[tuple[float, int, int]] = []  # (−value, context, position)
        for c in range(n_contexts):
            acts = text.acts_CSL[c, 1 : text.length_C[c], latent]
            if (acts > 0).any():
                expected.append((-float(acts.max()), c, 1 + acts.tolist().index(float(acts.max()))))
        mine = (peaks.latent_N == latent).nonzero().squeeze(1)
        found = [(-float(peaks.value_N[i]), int(peaks.context_N[i]), int(peaks.position_N[i])) for i in mine]
        assert set(found) <= set(expected)
        assert set(sorted(expected)[: SCALES.n_strong]) <= set(found)
        bins = [int(torch.bucketize(torch.tensor(-v), torch.tensor(SCALES.hist_edges))) for v, _, _ in found]
        assert bins == peaks.bin_N[mine].tolist()
        wanted = {int(torch.bucketize(torch.tensor(-v), torch.tensor(SCALES.hist_edges))) for v, _, _ in expected}
        assert set(bins) == wanted
        assert len(found) <= SCALES.n_strong + SCALES.n_bin * len(wanted)
        for (_, c, _), i in zip(found, mine, strict=True):  # the payload has every firing of the latent in that context
            at, _ = peaks.payload(i[None])
            acts = text.acts_CSL[c, : text.length_C[c], latent]
            positions = [p for p in range(1, len(acts)) if acts[p] > 0]
            assert peaks.payload_position_M[at].tolist() == positions
            assert peaks.payload_value_M[at].tolist() == acts[positions].tolist()
    assert int(peaks.size_N.sum()) == len(peaks.payload_position_M) == len(peaks.payload_value_M)


def test_the_sample_of_a_bin_does_not_prefer_early_contexts() -> None:
    """Count kept contexts over many latents: by the hash, each context is as likely as another."""
    n_latents, n_contexts = 400, 10
    latent = torch.arange(n_latents).repeat_interleave(n_contexts)
    context = torch.arange(n_contexts).repeat(n_latents)
    peaks = Peaks.find(n_latents, latent, context, torch.ones_like(latent), torch.ones(len(latent)), torch.zeros(0))
    kept = peaks.prune(0, 2, 1)
    counts = torch.bincount(kept.context_N, minlength=n_contexts)
    assert len(kept.key_N) == 2 * n_latents
    assert (counts - 80).abs().max() < 4 * 80**0.5


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), unique=True), st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_the_order_of_its_rows(rows: list[tuple[int, int]], random: Random) -> None:
    def ranks(rows: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        group = torch.tensor([group for group, _ in rows], dtype=torch.int64)
        key = torch.tensor([key for _, key in rows], dtype=torch.int64)
        return dict(zip(rows, sample_rank(key, group).tolist(), strict=True))

    found = ranks(rows)
    for group in range(4):
        mine = sorted(rank for (other, _), rank in found.items() if other == group)
        assert mine == list(range(len(mine)))
    assert ranks(random.sample(rows, len(rows))) == found


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 3.0]), max_size=12))
def test_the_strongest_come_first_and_of_equal_ones_the_lowest_context(values: list[float]) -> None:
    latent, context = torch.arange(len(values)) % 2, torch.arange(len(values)) // 2
    peaks = Peaks.find(2, latent, context, torch.ones_like(latent), torch.tensor(values), torch.tensor([0.5]))
    rank = dict(zip(zip(peaks.latent_N.tolist(), peaks.context_N.tolist(), strict=True),
                    peaks.strength_rank().tolist(), strict=True))
    for which in (0, 1):
        rows = sorted((-value, i // 2) for i, value in enumerate(values) if i % 2 == which)
        assert [rank[which, context] for _, context in rows] == list(range(len(rows)))
