"""The contexts with the lowest and the highest mean L0, against sorting all of them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.index.l0_extremes import KEPT, Extremes

texts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=30)


def extremes(texts: dict[int, list[int]], least: int = 1) -> Extremes:
    context = [context for context, l0 in texts.items() for _ in l0]
    l0 = [n for ns in texts.values() for n in ns]
    return Extremes.find(torch.tensor(context, dtype=torch.int64), torch.tensor(l0, dtype=torch.int64), least)


@settings(max_examples=30)
@given(texts, st.integers(1, 3), st.integers(0, 30))
def test_pieces_pruned_and_merged_keep_the_extremes_of_the_whole(l0: list[list[int]], least: int, cut: int) -> None:
    numbered = dict(enumerate(l0))
    mean = {context: sum(ns) / len(ns) for context, ns in numbered.items() if len(ns) >= least}
    fewest = sorted(mean, key=lambda context: (mean[context], context))[:KEPT]
    most = [context for context in sorted(mean, key=lambda context: (-mean[context], context))[:KEPT]
            if context not in fewest]
    parts = [extremes({c: ns for c, ns in numbered.items() if (c * 7 % 31 < cut) == side}, least).prune()
             for side in (True, False)]
    for merged in (parts[0].merge(parts[1]).prune(), parts[1].merge(parts[0]).prune()):
        assert merged.fewest().tolist() == fewest
        assert merged.most().tolist() == most
