"""Rules for latents, against a search by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.index.firing_rules import KINDS, MAX_TOKENS, MIN_FIRINGS, Counts, Rules, find_rules
from sae.index.token_counts import PairCounts
from sae.store.records import CLASSES

V, C = 9, len(CLASSES)


class Positions:
    """Positions in a text, each with three tokens, its classes, its half, and the latents that fire there."""

    def __init__(self, seed: int, n: int = 400, n_latents: int = 5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = {kind: torch.randint(0, V, (n,), generator=generator) for kind in KINDS[:3]}
        self.class_NC = torch.rand(n, C, generator=generator) < 0.3
        self.held_N = torch.rand(n, generator=generator) < 0.5
        noise = torch.rand(n, n_latents, generator=generator)
        wanted = torch.stack([self.tokens["token"] < 2, self.tokens["previous"] == 3, self.tokens["next"] == 4,
                              self.class_NC[:, 6], noise[:, 0] < 0.02], dim=1)
        self.fires_NL = wanted & (noise < 0.9) | (noise > 0.99)

    def counts(self) -> Counts:
        position, latent = self.fires_NL.nonzero(as_tuple=True)
        ones = torch.ones(len(position))

        def halves(index: Tensor, size: int) -> Tensor:
            return torch.stack([torch.bincount(index[self.held_N == bool(half)], minlength=size) for half in (0, 1)])

        return Counts(
            torch.stack([self.fires_NL[self.held_N == bool(half)].sum(dim=0) for half in (0, 1)]),
            {kind: PairCounts.count(latent, self.fires_NL.shape[1], token[position], V, ones, self.held_N[position])
             for kind, token in self.tokens.items()},
            {kind: halves(token, V) for kind, token in self.tokens.items()},
            torch.stack([self.fires_NL[self.held_N == bool(half)].T.long() @
                         self.class_NC[self.held_N == bool(half)].long() for half in (0, 1)]),
            torch.stack([self.class_NC[self.held_N == bool(half)].sum(dim=0) for half in (0, 1)]))

    def named(self, rules: Rules, latent: int) -> Tensor:
        """Return the positions that a latent's rule names."""
        kind = int(rules.kind_L[latent])
        if KINDS[kind] == "class":
            return self.class_NC[:, rules.class_L[latent]]
        tokens = rules.token_LK[latent]
        return torch.isin(self.tokens[KINDS[kind]], tokens[tokens >= 0])

    def f1(self, named_N: Tensor, latent: int, half: bool) -> tuple[float, float, float]:
        here_N = self.held_N == half
        fires_N = self.fires_NL[:, latent] & here_N
        both = float((fires_N & named_N).sum())
        precision = both / max(float((named_N & here_N).sum()), 1)
        recall = both / max(float(fires_N.sum()), 1)
        return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


@given(st.integers(0, 10_000))
def test_scores_are_of_the_half_that_the_rule_was_not_found_on(seed: int) -> None:
    positions = Positions(seed)
    rules = find_rules(positions.counts())
    for latent in range(5):
        if rules.kind_L[latent] < 0:
            continue
        precision, recall, f1 = positions.f1(positions.named(rules, latent), latent, True)
        assert abs(float(rules.precision_L[latent]) - precision) < 1e-9
        assert abs(float(rules.recall_L[latent]) - recall) < 1e-9
        assert abs(float(rules.f1_L[latent]) - f1) < 1e-9


@given(st.integers(0, 10_000))
def test_no_single_token_or_class_does_better_on_the_first_half(seed: int) -> None:
    positions = Positions(seed)
    rules = find_rules(positions.counts())
    for latent in range(5):
        if rules.kind_L[latent] < 0:
            continue
        found = positions.f1(positions.named(rules, latent), latent, False)[2]
        others = [positions.f1(positions.class_NC[:, c], latent, False)[2] for c in range(C)]
        for kind in KINDS[:3]:
            for token in range(V):
                named_N = positions.tokens[kind] == token
                seen = int((named_N & positions.fires_NL[:, latent] & ~positions.held_N).sum())
                if seen >= 2:
                    best = sorted((-positions.f1(positions.tokens[kind] == t, latent, False)[0], t) for t in range(V))
                    if token == best[0][1]:  # the rule starts with the most precise token
                        others.append(positions.f1(named_N, latent, False)[2])
        assert found >= max(others) - 1e-9


def test_planted_rules_are_found() -> None:
    rules = find_rules(Positions(1).counts())
    assert [KINDS[kind] for kind in rules.kind_L[:4].tolist()] == list(KINDS)
    assert sorted(rules.token_LK[0].tolist()) == [-1] * (MAX_TOKENS - 2) + [0, 1]
    assert rules.token_LK[1, 0] == 3
    assert rules.token_LK[2, 0] == 4
    assert rules.class_L[3] == 6
    assert (rules.f1_L[:4] > 0.85).all()


def test_a_latent_that_hardly_fires_has_no_rule() -> None:
    positions = Positions(2)
    positions.fires_NL[:, 4] = False
    positions.fires_NL[: MIN_FIRINGS - 1, 4] = True
    assert find_rules(positions.counts()).kind_L[4] == -1
