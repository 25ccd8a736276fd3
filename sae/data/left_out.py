"""Tokens that are left out of training, metrics and index: those of enormous norm, and those with given ids.

Some models have attention sinks beyond BOS: a few tokens whose activations are hundreds of times longer than the
others.  They take latents for themselves and dominate every squared error.  BOS has its own setting.

Shapes: N tokens, W width of the site that is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LeftOut:
    """The rule for leaving tokens out: a norm above `max_norm`, or one of the ids `tokens`."""

    max_norm: float = math.inf
    tokens: tuple[int, ...] = ()
    multiple: float = 0.0  # of the median norm, from which `max_norm` follows; 0: no limit

    def __bool__(self) -> bool:
        return bool(self.tokens) or math.isfinite(self.max_norm)

    def mask(self, x_NW: Tensor, token_N: Tensor) -> Tensor:
        """Return which tokens are left out, by their activations at the site that is read and by their ids."""
        out_N: Tensor = x_NW.float().norm(dim=1) > self.max_norm
        if self.tokens:
            out_N |= torch.isin(token_N, torch.tensor(self.tokens, device=token_N.device))
        return out_N

    def replaced(self, rows_NW: Tensor, out_N: Tensor) -> Tensor:
        """Return the rows with each one that is left out replaced by the last one before it that is not.

        So the number of rows, from which a run's order of tokens follows, stays the same.  Rows at the start are
        replaced by the first one that stays.  Nothing is replaced if no row stays.
        """
        if not bool(out_N.any()) or bool(out_N.all()):
            return rows_NW
        place_N = torch.where(out_N, -1, torch.arange(len(out_N), device=out_N.device))
        last_N = torch.cummax(place_N, dim=0).values
        return rows_NW[torch.where(last_N < 0, (~out_N).nonzero()[0, 0], last_N)]

    def record(self) -> dict[str, Any] | None:
        """Return the rule as it is kept in an SAE's config; None if nothing is left out."""
        if not self:
            return None
        limit = {"norm_multiple": self.multiple, "max_norm": self.max_norm} if math.isfinite(self.max_norm) else {}
        return {**limit, "tokens": list(self.tokens)}

    @classmethod
    def recorded(cls, record: dict[str, Any] | None) -> LeftOut:
        """Return the rule in an SAE's config."""
        if not record:
            return NOTHING
        return cls(float(record.get("max_norm", math.inf)), tuple(record.get("tokens", ())),
                   float(record.get("norm_multiple", 0)))

    def __str__(self) -> str:
        parts = [f"tokens with a norm above {self.max_norm:.4g} ({self.multiple:g} times the median)"] \
            if math.isfinite(self.max_norm) else []
        return " and ".join(parts + ([f"the tokens {', '.join(map(str, self.tokens))}"] if self.tokens else []))


NOTHING = LeftOut()
