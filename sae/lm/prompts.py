"""How many tokens a prompt has and whether a model can chat, without loading it.  No torch."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from sae.lm.model_info import ModelInfo


def prompt_length(info: ModelInfo, prompt: str) -> int | None:
    """Tokens of `prompt` with BOS, or None where the model's tokenizer.json is not at hand.

    The same file is what the language model encodes with, so the count is exact.
    """
    path = _tokenizer_file(info)
    return None if path is None else 1 + len(_tokenizer(path).encode(prompt, add_special_tokens=False).ids)


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def _tokenizer_file(info: ModelInfo) -> Path | None:
    if info.local:
        path = Path(info.source) / "tokenizer.json"
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(info.source, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None


def has_chat_template(info: ModelInfo) -> bool:
    """Whether the model's tokenizer brings a template for chats (known for models that are on this disk)."""
    folder = _folder(info)
    if folder is None:
        return False
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(config.get("chat_template"))


def _folder(info: ModelInfo) -> Path | None:
    """Where the model's files lie, or None where they are not on this disk."""
    if info.local:
        return Path(info.source)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(info.source, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None
