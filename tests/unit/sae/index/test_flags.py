"""Flags of latents at the numbers that define them."""

from __future__ import annotations

import torch

from sae.index.flags import flags
from sae.store.records import (
    CLASS_SHARE,
    CLASSES,
    DENSE_DENSITY,
    FLAGS,
    POSITION_SHARE,
    RARE_TOKENS,
    SINGLE_TOKEN_SHARE,
)

COUNTED = 1000


def of(n: int, top_token: int = 0, top_position: int = 0, **classes: int) -> set[str]:
    class_n_LC = torch.tensor([[classes.get(name, 0) for name in CLASSES]])
    found = flags(torch.tensor([n]), COUNTED, torch.tensor([top_token]), torch.tensor([top_position]), class_n_LC)
    assert set(found) == set(FLAGS)
    return {name for name, set_L in found.items() if set_L[0]}


def test_counts_decide_between_dead_rare_and_dense() -> None:
    dense = int(DENSE_DENSITY * COUNTED)
    assert of(0) == {"dead"}
    assert of(1) == of(RARE_TOKENS - 1) == {"rare"}
    assert of(RARE_TOKENS) == of(dense) == set()
    assert of(dense + 1) == {"dense"}


def test_shares_decide_only_where_a_latent_is_not_rare() -> None:
    for name, share, argument in (
            ("single_token", SINGLE_TOKEN_SHARE, "top_token"), ("position_bound", POSITION_SHARE, "top_position"),
            *((name, CLASS_SHARE, name) for name in ("punctuation", "number", "capital"))):
        enough = round(share * 20)
        assert of(20, **{argument: enough}) == {name}
        assert of(20, **{argument: enough - 1}) == set()
        assert of(RARE_TOKENS - 1, **{argument: RARE_TOKENS - 1}) == {"rare"}
