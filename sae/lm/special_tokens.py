"""What a tokenizer's own files say of special tokens, whatever a library has added to it since.

transformer_lens gives a tokenizer without BOS the EOS token in its place, and one without EOS a new token, which may
be outside the model's embedding.
"""

from __future__ import annotations

import inspect
from typing import Any

from sae.errors import UserError


def context_start(tokenizer: Any, d_vocab: int) -> int | None:
    """Return the id with which contexts begin: BOS, or EOS in its place; None where neither is in the embedding."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None and token < d_vocab:
            return int(token)
    return None


def has_own_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer names a BOS token of its own."""
    given = getattr(tokenizer, "init_kwargs", {})
    if "bos_token" in given:
        return given["bos_token"] is not None
    parameter = inspect.signature(type(tokenizer).__init__).parameters.get("bos_token")
    return parameter is not None and parameter.default not in (None, inspect.Parameter.empty)


def special_ids(tokenizer: Any) -> list[int]:
    """Return all special tokens: those with a role and those that only `tokenizer.json` marks as special."""
    marked = (token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
    return sorted({*tokenizer.all_special_ids, *marked})


def end_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Return the tokens that end a text: the tokenizer's EOS and all that `generation_config.json` lists."""
    listed = getattr(generation_config, "eos_token_id", None)
    several = listed if isinstance(listed, list) else [listed]
    return frozenset(int(token) for token in (tokenizer.eos_token_id, *several) if token is not None)


def check_embedded(ids: list[list[int]], d_vocab: int, model: str) -> None:
    """Raise UserError (field `model`) for a token that the embedding lacks."""
    largest = max((max(row) for row in ids if row), default=0)
    if largest >= d_vocab:
        raise UserError(f"model: the tokenizer of {model} makes token {largest:,} of this text, and the model has "
                        f"{d_vocab:,} embeddings; the two do not belong together, or a token was added without "
                        "resizing the model", "model")
