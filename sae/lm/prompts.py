"""The token count of a prompt, and whether a model can chat, found without loading the model.  No torch."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from sae.lm.model_info import ModelInfo


def prompt_length(info: ModelInfo, prompt: str) -> int | None:
    """Count the tokens of `prompt` with BOS.  Returns None if the model's tokenizer.json is not on this disk.

    The language model encodes with the same file, so the count is exact for a text without markup, and otherwise an
    upper limit.
    """
    path = _tokenizer_file(info)
    return None if path is None else 1 + len(_tokenizer(path).encode(prompt, add_special_tokens=False).ids)


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # as plain characters
    return tokenizer


def _tokenizer_file(info: ModelInfo) -> Path | None:
    if info.local:
        path = Path(info.source) / "tokenizer.json"
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(info.source, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None


def has_chat_template(info: ModelInfo) -> bool:
    """Return whether the model's tokenizer has a chat template.  False if the model is not on this disk."""
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
    """Return the folder of the model's files, or None if they are not on this disk."""
    if info.local:
        return Path(info.source)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(info.source, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None
