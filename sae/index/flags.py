"""What the flags of a latent mean: one definition each, shown with the flag."""

from __future__ import annotations

import torch
from torch import Tensor

DENSE_DENSITY = 0.1
RARE_TOKENS = 10
SINGLE_TOKEN_SHARE = 0.9
POSITION_SHARE = 0.5

DEFINITIONS = {
    "dead": "fired on none of the counted tokens",
    "dense": f"fires on more than {DENSE_DENSITY:.0%} of the counted tokens",
    "rare": f"fired, but on fewer than {RARE_TOKENS} tokens",
    "single_token": f"at least {SINGLE_TOKEN_SHARE:.0%} of its firings are on one token of the vocabulary "
                    f"(of {RARE_TOKENS} firings or more)",
    "position_bound": f"at least {POSITION_SHARE:.0%} of its firings are at one position of the context "
                      f"(of {RARE_TOKENS} firings or more)",
}


def flags(n_tokens_L: Tensor, counted: int, top_token_n_L: Tensor, top_position_n_L: Tensor) -> dict[str, Tensor]:
    """The flags of every latent as bool [L], by the names in `DEFINITIONS`.

    `top_token_n_L`, `top_position_n_L`: firings on its most frequent token and position.
    """
    enough_L = n_tokens_L >= RARE_TOKENS
    return {
        "dead": n_tokens_L == 0,
        "dense": n_tokens_L > DENSE_DENSITY * counted,
        "rare": (n_tokens_L > 0) & ~enough_L,
        "single_token": enough_L & (top_token_n_L >= SINGLE_TOKEN_SHARE * n_tokens_L.double()),
        "position_bound": enough_L & (top_position_n_L >= POSITION_SHARE * n_tokens_L.double()),
    }


def largest_in_row(counts_LS: Tensor) -> Tensor:
    """The largest count of each latent, [L]."""
    return torch.amax(counts_LS, dim=1)
