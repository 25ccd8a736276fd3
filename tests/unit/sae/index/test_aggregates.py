"""Sums over a piece of text against counts by hand."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.index.aggregates import held_out
from tests.unit.sae.index.random_text import SCALES, C, L, S, Text, V

any_text = given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([0.1, 0.6]))


@settings(max_examples=30, deadline=None)
@any_text
def test_the_sums_of_each_latent_are_those_of_a_count_by_hand(seed: int, n_contexts: int, density: float) -> None:
    text = Text(seed, n_contexts, density)
    shard = text.shard(list(range(n_contexts)))
    l0_CS = (text.acts_CSL > 0).sum(dim=2)
    held_C = held_out(torch.arange(n_contexts))
    edges = (0, *SCALES.hist_edges, 99)
    for latent in range(L):
        acts_CS = text.acts_CSL[..., latent] * text.counted_CS
        fires_CS = acts_CS > 0
        values = acts_CS[fires_CS]
        assert shard.n_tokens_L[latent] == len(values)
        assert shard.n_contexts_L[latent] == int(fires_CS.any(dim=1).sum())
        assert shard.max_L[latent] == (values.max() if len(values) else 0)
        assert shard.sum_l0_L[latent] == int(l0_CS[fires_CS].sum())
        assert shard.hist_LK[latent].tolist() == [
            int(((values > low) & (values <= high)).sum()) for low, high in pairwise(edges)]
        assert shard.position_LS[latent].tolist() == fires_CS.sum(dim=0).tolist()
        assert shard.first_L[latent] == int(fires_CS[:, 1].sum())
        assert shard.last_L[latent] == int(fires_CS[torch.arange(n_contexts), text.length_C - 1].sum())
        for half in (0, 1):
            here_CS = fires_CS & (held_C == bool(half))[:, None]
            assert shard.firings_2L[half, latent] == int(here_CS.sum())
            assert shard.class_2LC[half, latent].tolist() == [
                int((here_CS & (text.classes_CS >> c & 1).bool()).sum()) for c in range(C)]
            for pairs, token_CS in ((shard.tokens, text.tokens_CS), (shard.previous, text.tokens_CS.roll(1, 1))):
                mine = pairs.key_N // V == latent
                count = pairs.held_N[mine] if half else (pairs.n_N - pairs.held_N)[mine]
                by_hand = torch.bincount(token_CS[here_CS], minlength=V)
                assert count.tolist() == by_hand[pairs.key_N[mine] % V].tolist()
                assert int(count.sum()) == int(by_hand.sum())


@settings(max_examples=30, deadline=None)
@any_text
def test_the_sums_over_tokens_are_those_of_a_count_by_hand(seed: int, n_contexts: int, density: float) -> None:
    text = Text(seed, n_contexts, density)
    shard = text.shard(list(range(n_contexts)))
    counted_CS, real_CS = text.counted_CS, torch.arange(S) < text.length_C[:, None]
    l0_CS = (text.acts_CSL > 0).sum(dim=2)
    assert shard.l0_hist.tolist() == [int((l0_CS[counted_CS] == n).sum()) for n in range(L + 1)]
    assert shard.l0_bos_hist.tolist() == [int((l0_CS[:, 0] == n).sum()) for n in range(L + 1)]
    held_C = held_out(torch.arange(n_contexts))
    for half in (0, 1):
        mine = [c for c in range(n_contexts) if bool(held_C[c]) == bool(half)]
        places = [(c, p) for c in mine for p in range(1, text.length_C[c])]
        for base, shift in ((shard.token_2V, 0), (shard.preceding_2V, -1), (shard.following_2V, 1)):
            there = [int(text.tokens_CS[c, p + shift]) for c, p in places if p + shift < text.length_C[c]]
            assert base[half].tolist() == [there.count(v) for v in range(V)]
        assert shard.class_2C[half].tolist() == [
            sum(int(text.classes_CS[c, p] >> bit & 1) for c, p in places) for bit in range(C)]
    assert shard.l0_token_V2.tolist() == [
        [int((counted_CS & (text.tokens_CS == v)).sum()), int(l0_CS[counted_CS & (text.tokens_CS == v)].sum())]
        for v in range(V)]
    assert shard.l0_position_S3.tolist() == [
        [int(real_CS[:, s].sum()), int(l0_CS[:, s][real_CS[:, s]].sum()),
         int(l0_CS[:, s][real_CS[:, s]].square().sum())] for s in range(S)]


def test_about_half_of_the_contexts_are_held_out() -> None:
    held = held_out(torch.arange(10_000))
    assert abs(int(held.sum()) - 5_000) < 4 * 50
    assert torch.equal(held[[4, 7, 9_999]], held_out(torch.tensor([4, 7, 9_999])))  # by the context's number alone
