"""Co-firing of latents, against counting by hand."""

from __future__ import annotations

from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.index import cofiring
from sae.index.cofiring import (
    IMPLIED_LIFT,
    IMPLIED_SHARE,
    IMPLIED_TOKENS,
    MIN_TOGETHER,
    CofiringPairs,
    CofiringSample,
    cofiring_pairs,
    implied,
)
from sae.kernels.hashing import hash31


def firings(seed: int, n_tokens: int, n_latents: int) -> tuple[Tensor, Tensor]:
    """Make random codes: some tokens without a latent, some latents on nearly every token, one implies another."""
    generator = torch.Generator().manual_seed(seed)
    active_TL = torch.rand(n_tokens, n_latents, generator=generator) < torch.rand(n_latents, generator=generator) ** 2
    active_TL[:, 1] |= active_TL[:, 0]
    token_N, latent_N = active_TL.nonzero(as_tuple=True)
    return token_N * 7 + 3, latent_N


def columns(sample: CofiringSample) -> list[list[int]]:
    return [column.tolist() for column in vars(sample).values()]


@given(seed=st.integers(0, 10_000), n_tokens=st.integers(1, 60), n_kept=st.integers(1, 20), cut=st.integers(0, 60))
def test_shards_merge_to_what_one_pass_keeps(seed: int, n_tokens: int, n_kept: int, cut: int) -> None:
    token_N, latent_N = firings(seed, n_tokens, 6)
    whole = CofiringSample.find(token_N, latent_N).prune(n_kept)
    first = token_N < cut * 7
    parts = [CofiringSample.find(token_N[side], latent_N[side]).prune(n_kept) for side in (first, ~first)]
    assert columns(parts[0].merge(parts[1]).prune(n_kept)) == columns(whole)
    assert columns(parts[1].merge(parts[0]).prune(n_kept)) == columns(whole)


@given(seed=st.integers(0, 10_000), n_tokens=st.integers(1, 80), n_kept=st.integers(1, 30), run=st.integers(1, 200))
def test_pairs_are_those_of_each_latents_own_sample(seed: int, n_tokens: int, n_kept: int, run: int) -> None:
    L = 6
    token_N, latent_N = firings(seed, n_tokens, L)
    on = {int(t): set(latent_N[token_N == t].tolist()) for t in token_N.unique()}
    density_L = torch.bincount(latent_N, minlength=L).double() / n_tokens
    with patch.object(cofiring, "_RUN_PAIRS", run):
        pairs, sampled_L = cofiring_pairs(CofiringSample.find(token_N, latent_N).prune(n_kept), density_L, n_kept)

    expected = []
    for a in range(L):
        tokens = sorted((t for t in on if a in on[t]), key=lambda t: (int(hash31(torch.tensor([t]))), t))[:n_kept]
        assert sampled_L[a] == len(tokens)
        for b in range(L):
            count = sum(b in on[t] for t in tokens)
            if b != a and count >= MIN_TOGETHER:
                given_b = count / len(tokens)
                expected.append((a, b, given_b, given_b / float(density_L[b])))
    rows = list(zip(*(column.tolist() for column in vars(pairs).values()), strict=True))
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    torch.testing.assert_close(torch.tensor([row[2:4] for row in rows]), torch.tensor([row[2:] for row in expected]))
    n_tokens_L = torch.bincount(latent_N, minlength=L)
    rule = [(share if n_tokens_L[a] <= n_kept else lowest(share, int(sampled_L[a]))) >= IMPLIED_SHARE
            and lift >= IMPLIED_LIFT and int(sampled_L[a]) >= IMPLIED_TOKENS for a, _, share, lift in expected]
    assert implied(pairs, sampled_L, n_tokens_L).tolist() == rule


def lowest(share: float, n: int) -> float:
    """Find by bisection the smallest share under which `share` of `n` is within 1.96 standard errors."""
    low, high = 0.0, share
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share - middle > 1.959964 * (middle * (1 - middle) / n) ** 0.5 else (low, middle)
    return high


def test_an_implication_is_rarely_claimed_where_it_does_not_hold() -> None:
    """Of pairs whose true share is 0.88, a sample of 64 shows every third at 0.9 or more."""
    n_pairs, n_tokens = 400, 4_000
    generator = torch.Generator().manual_seed(0)
    both = torch.rand(n_pairs, n_tokens, generator=generator) < 0.88
    given = torch.stack([row[torch.randperm(n_tokens, generator=generator)[:64]].double().mean() for row in both])
    index = torch.arange(n_pairs)
    pairs = CofiringPairs(index, index + n_pairs, given, torch.full_like(given, 10.0), given)
    claimed = implied(pairs, torch.full((n_pairs,), 64), torch.full((n_pairs,), n_tokens))
    assert (given >= IMPLIED_SHARE).double().mean() > 0.25
    assert claimed.double().mean() < 0.02


def test_phi_is_the_correlation_of_firing_where_all_firings_are_kept() -> None:
    token_N, latent_N = firings(1, 300, 5)
    active_TL = torch.zeros(300, 5, dtype=torch.float64)
    active_TL[(token_N - 3) // 7, latent_N] = 1
    pairs, _ = cofiring_pairs(CofiringSample.find(token_N, latent_N).prune(1000), active_TL.mean(dim=0), 1000)
    assert len(pairs.phi_N) >= 12
    by_hand = torch.corrcoef(active_TL.T)[pairs.latent_N, pairs.other_N]
    torch.testing.assert_close(pairs.phi_N, by_hand)


def test_nothing_fires() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    sample = CofiringSample.find(nothing, nothing).prune(4)
    pairs, sampled_L = cofiring_pairs(sample, torch.zeros(3, dtype=torch.float64), 4)
    assert len(pairs.latent_N) == 0
    assert sampled_L.tolist() == [0, 0, 0]
