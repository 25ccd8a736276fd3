"""Flags of latents, computed from their counts."""

from __future__ import annotations

import torch
from torch import Tensor

from sae.store.records import (
    CLASS_SHARE,
    CLASSES,
    DENSE_DENSITY,
    POSITION_SHARE,
    RARE_TOKENS,
    SINGLE_TOKEN_SHARE,
)


def flags(
    n_tokens_L: Tensor, counted: int, top_token_n_L: Tensor, top_position_n_L: Tensor, class_n_LC: Tensor
) -> dict[str, Tensor]:
    """Return the flags of every latent as bool [L], by the names that `sae.store.records.FLAGS` explains.

    `top_token_n_L` and `top_position_n_L` count firings on the latent's most frequent token and position.
    `class_n_LC` counts firings on each class of tokens.
    """
    enough_L = n_tokens_L >= RARE_TOKENS
    return {
        "dead": n_tokens_L == 0,
        "dense": n_tokens_L > DENSE_DENSITY * counted,
        "rare": (n_tokens_L > 0) & ~enough_L,
        "single_token": enough_L & (top_token_n_L >= SINGLE_TOKEN_SHARE * n_tokens_L.double()),
        "position_bound": enough_L & (top_position_n_L >= POSITION_SHARE * n_tokens_L.double()),
        **{name: enough_L & (class_n_LC[:, list(CLASSES).index(name)] >= CLASS_SHARE * n_tokens_L.double())
           for name in ("punctuation", "number", "capital")},
    }


def largest_in_row(counts_LS: Tensor) -> Tensor:
    """Return the largest count of each latent, [L]."""
    return torch.amax(counts_LS, dim=1)
