"""The tokens whose logits each latent raises most, as arrays that are kept: every search looks through all of them.

Shapes: V raised logits of all latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sae.store.build import Build


@dataclass(frozen=True)
class RaisedLogits:
    """Every pair of a token and a latent that raises its logit, token after token; the latents of a token ascend."""

    token_V: Any
    latent_V: Any
    value_V: Any

    def of_token(self, token: int) -> tuple[Any, Any]:
        """Return the latents among whose most raised logits this token is, and how much they raise it."""
        low, high = np.searchsorted(self.token_V, [token, token + 1])
        return self.latent_V[low:high], self.value_V[low:high]


def raised_logits(build: Build) -> RaisedLogits:
    """Copy the lists from the page file, so that a search neither asks DuckDB nor reads a file that may change."""
    parts = list(zip(build.listed("logit_pos"), build.listed("logit_pos_value"), strict=True))
    token_V = np.concatenate([np.empty(0, np.int32), *(tokens for (_, _, tokens), _ in parts)])
    latent_V = np.concatenate([np.empty(0, np.int32), *(
        np.repeat(latents, np.diff(offsets)) for (latents, offsets, _), _ in parts)])
    value_V = np.concatenate([np.empty(0, np.float32), *(values for _, (_, _, values) in parts)])
    order_V = _stable_order(token_V)
    return RaisedLogits(token_V[order_V], latent_V[order_V].astype(np.int32), value_V[order_V])


def _stable_order(token_V: Any) -> Any:
    """Return the indices that sort the tokens, equal ones in their order: of 16 bits at a time, which numpy counts
    instead of comparing.
    """
    order_V, high_V = np.argsort(token_V.astype(np.uint16), kind="stable"), (token_V >> 16).astype(np.int16)
    return order_V[np.argsort(high_V[order_V], kind="stable")] if high_V.any() else order_V
