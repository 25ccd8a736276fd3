"""Counts by (latent, token) against counting by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.index.token_counts import PairCounts, with_lift

L, V = 4, 6
firings = st.lists(st.tuples(st.integers(0, L - 1), st.integers(0, V - 1), st.sampled_from([0.5, 1.0, 2.5]),
                             st.booleans()), max_size=40)
Rows = list[tuple[int, int, float, bool]]


def count(rows: Rows) -> PairCounts:
    latent, token, value, held = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 4
    return PairCounts.count(torch.tensor(latent, dtype=torch.int32), L, torch.tensor(token, dtype=torch.int32), V,
                            torch.tensor(value), torch.tensor(held, dtype=torch.int32))


def columns(pairs: PairCounts) -> list[list[float]]:
    return [column.tolist() for column in vars(pairs).values()]


@settings(max_examples=30)
@given(firings)
def test_pairs_are_counted(rows: Rows) -> None:
    n, held = Counter((i, t) for i, t, _, _ in rows), Counter((i, t) for i, t, _, h in rows if h)
    pairs = sorted(n)
    assert columns(count(rows)) == [
        [i * V + t for i, t in pairs], [n[pair] for pair in pairs], [held[pair] for pair in pairs],
        [max(value for i, t, value, _ in rows if (i, t) == pair) for pair in pairs]]


@settings(max_examples=30)
@given(firings, st.integers(0, 40))
def test_pieces_merge_to_the_whole_in_either_order(rows: Rows, cut: int) -> None:
    first, second = count(rows[:cut]), count(rows[cut:])
    assert columns(first.merge(second)) == columns(second.merge(first)) == columns(count(rows))


@settings(max_examples=30)
@given(firings)
def test_lift_is_the_share_of_a_token_among_the_firings_over_its_share_of_the_text(rows: Rows) -> None:
    in_text = torch.arange(10, 10 + V)
    n_L = torch.bincount(torch.tensor([i for i, *_ in rows], dtype=torch.int64), minlength=L)
    top = with_lift(count(rows), n_L, in_text)
    n = Counter((i, t) for i, t, _, _ in rows)
    order = sorted(n, key=lambda pair: (pair[0], -n[pair], pair[1]))
    assert list(zip(top.latent_N.tolist(), top.token_N.tolist(), strict=True)) == order
    assert top.n_N.tolist() == [n[pair] for pair in order]
    assert top.lift_N.tolist() == pytest.approx(
        [n[i, t] / int(n_L[i]) / (float(in_text[t]) / float(in_text.sum())) for i, t in order])
