"""How long a text must be to reach past the windows and chunks of a model's attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

_WORDS = ("window", "chunk", "local")
_OPERATIONS = {"cpu": 1e12, "cuda": 1e14}  # of a forward pass over the text, at most
SHORT = 20  # tokens of a text that shows everything but windows
_BEYOND = 12


def windows(lm: LanguageModel) -> list[int]:
    """Return the widths of windows and chunks that the config names, below the longest text that the model reads."""
    config = lm.bridge.original_model.config.get_text_config(decoder=True)
    return sorted({width for width in _widths(config.to_dict()) if 1 < width < lm.info.n_ctx})


def reading_length(lm: LanguageModel) -> int:
    """Return the length of a text that reaches past every window, or as long as a check of a few seconds can read."""
    size = sum(parameter.numel() for parameter in lm.bridge.original_model.parameters())
    affordable = int(_OPERATIONS.get(lm.device.type, 1e12) / (2 * size))
    wanted = max([SHORT, *(width + _BEYOND for width in windows(lm))])
    return min(wanted, max(affordable, 2 * SHORT), lm.info.n_ctx)


def sample_text(lm: LanguageModel, length: int) -> list[int]:
    """Return BOS and random tokens, `length` in all."""
    ids = torch.randint(0, lm.info.d_vocab, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    return [lm.bos_id, *ids[1:]]


def _widths(value: Any, key: str = "") -> Iterator[int]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _widths(inner, str(name))
    elif isinstance(value, int) and not isinstance(value, bool) and any(word in key for word in _WORDS):
        yield value
