"""Shards are equal to the last bit, however the text is split and in whatever order the parts are merged."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.index.cofiring import SAMPLED, CofiringSample
from sae.index.shard import Shard
from sae.workspace.checkpoint import load_checkpoint, save_checkpoint
from tests.unit.sae.index.random_text import SCALES, L, S, Text, same


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([0.0, 0.2, 0.7]), st.data())
def test_any_split_and_any_order_of_merging_give_the_same_shard(
    seed: int, n_contexts: int, density: float, data: st.DataObject
) -> None:
    text = Text(seed, n_contexts, density)
    whole = text.shard(list(range(n_contexts)))
    order = data.draw(st.permutations(range(n_contexts)))
    cuts = sorted(data.draw(st.sets(st.integers(1, n_contexts), max_size=4)))
    bounds = [0, *[cut for cut in cuts if cut < n_contexts], n_contexts]
    shards = [text.shard(list(order[start:end])) for start, end in pairwise(bounds)]
    while len(shards) > 1:
        i = data.draw(st.integers(0, len(shards) - 1))
        first = shards.pop(i)
        j = data.draw(st.integers(0, len(shards) - 1))
        shards[j] = shards[j].merge(first, SCALES)
    assert same(shards[0].state(), whole.state())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([0.1, 0.6]))
def test_moments_are_those_of_the_activations(seed: int, n_contexts: int, density: float) -> None:
    text = Text(seed, n_contexts, density)
    shard = text.shard(list(range(n_contexts)))
    for latent in range(L):
        values = text.acts_CSL[..., latent][text.counted_CS & (text.acts_CSL[..., latent] > 0)]
        if not len(values):
            assert torch.isnan(shard.mean_L(SCALES)[latent])
            continue
        assert float(shard.mean_L(SCALES)[latent]) == pytest.approx(float(values.double().mean()), abs=1e-8)
        std = float(values.double().std(correction=0))
        assert float(shard.std_L(SCALES)[latent]) == pytest.approx(std, abs=1e-7)
        if len(set(values.tolist())) > 1:
            skew = float(((values.double() - values.double().mean()) / std).pow(3).mean())
            assert float(shard.skew_L()[latent]) == pytest.approx(skew, abs=1e-5)
        else:
            assert torch.isnan(shard.skew_L()[latent])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_fvu_and_norm_are_those_of_the_counted_tokens(seed: int, n_contexts: int) -> None:
    text = Text(seed, n_contexts, 0.3)
    if not text.counted_CS.any():
        return
    shard = text.shard(list(range(n_contexts)))
    norms = text.norm_CS[text.counted_CS].sort().values
    middle = norms[[(len(norms) - 1) // 2, len(norms) // 2]]
    assert float(middle[0]) * 0.985 < shard.median_norm() < float(middle[1]) * 1.015
    mean_D = text.x_CSD[text.counted_CS].double().mean(dim=0)
    for s in range(1, S):
        here_C = text.counted_CS[:, s]
        spread = float((text.x_CSD[here_C, s].double() - mean_D).square().sum())
        if spread > 1e-3:
            expected_fvu = float(text.error_CS[here_C, s].sum()) / spread
            assert float(shard.fvu_S()[s]) == pytest.approx(expected_fvu, rel=1e-4, abs=1e-8)
        elif not here_C.any():
            assert torch.isnan(shard.fvu_S()[s])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_cofiring_is_sampled_from_counted_tokens(seed: int) -> None:
    text = Text(seed, 6, 0.5)
    shard = text.shard(list(range(6)))
    position, latent = [], []
    for c in range(6):
        for p in range(1, text.length_C[c]):
            for i in text.acts_CSL[c, p].nonzero().squeeze(1).tolist():
                position.append(c * S + p)
                latent.append(i)
    by_hand = CofiringSample.find(torch.tensor(position), torch.tensor(latent)).prune(SAMPLED)
    assert same(vars(shard.cofiring), vars(by_hand))


def test_state_survives_a_checkpoint(tmp_path: Any) -> None:
    shard = Text(0, 6, 0.4).shard([0, 1, 2, 3])
    save_checkpoint(tmp_path / "s.pt", shard.state())
    again = Shard.from_state(load_checkpoint(tmp_path / "s.pt"))
    assert same(again.state(), shard.state())
    other = Text(0, 6, 0.4).shard([4, 5])
    assert same(again.merge(other, SCALES).state(), shard.merge(other, SCALES).state())


def test_nothing_that_fires_is_an_empty_shard() -> None:
    shard = Text(0, 3, 0.0).shard([0, 1, 2])
    for keys in (shard.tokens.key_N, shard.nexts.key_N, shard.peaks.key_N, shard.peaks.payload_value_M):
        assert len(keys) == 0
    assert not shard.n_tokens_L.any()
