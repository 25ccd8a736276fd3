"""Shards are equal to the last bit, however the text is split and in whatever order the parts are merged."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.index.aggregates import held_out
from sae.index.cofiring import SAMPLED, CofiringSample
from sae.index.forward import Firings, ForwardPass, Misses, Tokens
from sae.index.scales import IndexScales
from sae.index.shard import Shard
from sae.index.top_contexts import Peaks
from sae.store.records import CLASSES
from sae.workspace.checkpoint import load_checkpoint, save_checkpoint

L, V, S, D, C = 5, 7, 6, 3, len(CLASSES)
SCALES = IndexScales(n_latents=L, d_vocab=V, context_length=S, hist_edges=(0.6, 1.1, 2.3), unit=4.0, norm_unit=16.0,
              n_strong=2, n_bin=1, n_near=2)


class Text:
    """Random contexts: tokens [C, S], lengths [C], activations [C, S, L] of few distinct values, so with many ties."""

    def __init__(self, seed: int, n_contexts: int, density: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens_CS = torch.randint(0, V, (n_contexts, S), generator=generator)
        self.length_C = torch.randint(1, S + 1, (n_contexts,), generator=generator)
        values = torch.randint(1, 7, (n_contexts, S, L), generator=generator) / 2
        fires = torch.rand(n_contexts, S, L, generator=generator) < density
        fires[..., 4] = False
        misses = torch.rand(n_contexts, S, L, generator=generator) < 0.3  # silent, and nearly firing
        self.near_CSL = torch.where(misses & ~fires, torch.randint(-2, 3, (n_contexts, S, L), generator=generator), 9)
        self.acts_CSL = torch.where(fires, values, 0.0)
        self.x_CSD = 4 * torch.randn(n_contexts, S, D, generator=generator)
        self.error_CS = torch.rand(n_contexts, S, generator=generator)
        self.classes_CS = torch.randint(0, 1 << C, (n_contexts, S), generator=generator).to(torch.int16)

    @property
    def norm_CS(self) -> Tensor:
        return self.x_CSD.norm(dim=2)

    def shard(self, contexts: list[int]) -> Shard:
        """Make the shard that a scan would make of these contexts, in this order."""
        passes: list[ForwardPass] = []
        for c in contexts:
            n = int(self.length_C[c])
            acts, token = self.acts_CSL[c, :n], self.tokens_CS[c, :n]
            one = Tokens(
                torch.full((n,), c), torch.arange(n), token, torch.roll(token, 1),
                torch.cat([token[1:], torch.tensor([-1])]), self.classes_CS[c, :n], (acts > 0).sum(dim=1),
                self.x_CSD[c, :n], self.error_CS[c, :n])
            at, latent = acts.nonzero(as_tuple=True)
            at, latent = at[at > 0], latent[at > 0]
            firings = Firings(latent, acts[at, latent], one.context_B[at], at, token[at], one.previous_B[at],
                              one.next_B[at], one.l0_B[at], one.classes_B[at])
            near = self.near_CSL[c, :n].float()
            at, latent = (near < 9).nonzero(as_tuple=True)
            at, latent = at[at > 0], latent[at > 0]
            passes.append(ForwardPass(firings, one, Misses(latent, near[at, latent], one.context_B[at], at)))
        return Shard.of(SCALES, passes)


def same(a: Any, b: Any) -> bool:
    """Return whether both are equal to the last bit, in every field."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


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
def test_a_shard_is_what_a_count_by_hand_gives(seed: int, n_contexts: int, density: float) -> None:
    text = Text(seed, n_contexts, density)
    shard = text.shard(list(range(n_contexts)))
    real_CS = torch.arange(S) < text.length_C[:, None]
    counted_CS = real_CS & (torch.arange(S) > 0)
    acts_CSL = text.acts_CSL * counted_CS[..., None]
    l0_CS = (text.acts_CSL > 0).sum(dim=2)
    held_C = held_out(torch.arange(n_contexts))
    for latent in range(L):
        acts_CS = acts_CSL[..., latent]
        fires_CS = acts_CS > 0
        values = acts_CS[fires_CS]
        assert shard.n_tokens_L[latent] == len(values)
        assert shard.n_contexts_L[latent] == int(fires_CS.any(dim=1).sum())
        assert shard.max_L[latent] == (values.max() if len(values) else 0)
        assert shard.sum_l0_L[latent] == int(l0_CS[fires_CS].sum())
        if len(values):
            assert float(shard.mean_L(SCALES)[latent]) == pytest.approx(float(values.double().mean()), abs=1e-8)
            std = float(values.double().std(correction=0))
            assert float(shard.std_L(SCALES)[latent]) == pytest.approx(std, abs=1e-7)
            if len(set(values.tolist())) > 1:
                skew = float(((values.double() - values.double().mean()) / std).pow(3).mean())
                assert float(shard.skew_L()[latent]) == pytest.approx(skew, abs=1e-5)
            else:
                assert torch.isnan(shard.skew_L()[latent])
        else:
            assert torch.isnan(shard.mean_L(SCALES)[latent])
        expected = [int(((values > low) & (values <= high)).sum())
                    for low, high in ((0, 0.6), (0.6, 1.1), (1.1, 2.3), (2.3, 99))]
        assert shard.hist_LK[latent].tolist() == expected
        assert shard.position_LS[latent].tolist() == fires_CS.sum(dim=0).tolist()
        assert shard.first_L[latent] == int(fires_CS[:, 1].sum())
        last_C = text.length_C - 1
        assert shard.last_L[latent] == int(fires_CS[torch.arange(n_contexts), last_C].sum())
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
    assert shard.l0_hist.tolist() == [int((l0_CS[counted_CS] == n).sum()) for n in range(L + 1)]
    assert shard.l0_bos_hist.tolist() == [int((l0_CS[:, 0] == n).sum()) for n in range(L + 1)]
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
    if counted_CS.any():
        norms = text.norm_CS[counted_CS].sort().values
        middle = norms[[(len(norms) - 1) // 2, len(norms) // 2]]
        assert float(middle[0]) * 0.985 < shard.median_norm() < float(middle[1]) * 1.015
        mean_D = text.x_CSD[counted_CS].double().mean(dim=0)
        for s in range(1, S):
            here_C = counted_CS[:, s]
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
