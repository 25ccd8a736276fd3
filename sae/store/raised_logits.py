"""The tokens whose logits each latent raises most, as arrays that are kept: every search looks through all of them.

Shapes: L latents, V raised logits of all latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sae.store.build import Build


@dataclass(frozen=True)
class RaisedLogits:
    """The tokens and rises of one latent after another, from `start_L` on."""

    latent_L: Any
    start_L: Any
    token_V: Any
    value_V: Any

    def latents(self, hit_V: Any) -> Any:
        """Return the latent of each of these places."""
        return self.latent_L[np.searchsorted(self.start_L, hit_V, "right") - 1]

    def of_token(self, token: int) -> tuple[Any, Any]:
        """Return the latents among whose most raised logits this token is, and how much they raise it."""
        hit_V = np.flatnonzero(self.token_V == token)
        return self.latents(hit_V), self.value_V[hit_V]


def raised_logits(build: Build) -> RaisedLogits:
    """Copy the lists from the page file, so that a search neither asks DuckDB nor reads a file that may change."""
    parts = list(zip(build.listed("logit_pos"), build.listed("logit_pos_value"), strict=True))
    sizes = np.cumsum([0, *(len(tokens) for (_, _, tokens), _ in parts)])
    token_V = np.concatenate([np.empty(0, np.int32), *(tokens for (_, _, tokens), _ in parts)])
    small = np.uint16 if token_V.max(initial=0) < 1 << 16 else np.int32
    return RaisedLogits(
        np.concatenate([np.empty(0, np.int64), *(latents for (latents, _, _), _ in parts)]),
        np.concatenate([np.empty(0, np.int64), *(
            offsets[:-1] + size for ((_, offsets, _), _), size in zip(parts, sizes, strict=False))]),
        token_V.astype(small), np.concatenate([np.empty(0, np.float32), *(values for _, (_, _, values) in parts)]))
