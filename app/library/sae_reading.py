"""How an SAE was trained to read a text: with or without BOS, and up to what length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reads_bos(config: Mapping[str, Any] | None) -> bool:
    """Return whether an SAE reads contexts that begin with BOS."""
    return bool(((config or {}).get("bos") or {}).get("prepended", True))


def beyond_training(config: Mapping[str, Any] | None, n_tokens: int) -> int | None:
    """Return the length of the contexts in an SAE's training if a text of `n_tokens` is longer, else None."""
    length = (config or {}).get("context_length")
    return length if isinstance(length, int) and n_tokens > length else None
