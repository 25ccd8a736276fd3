"""Sizes that a `config.json` leaves to the defaults of the transformers library.

Hub configs often omit what equals the default of their class.  The class lives in transformers, which imports torch;
a process without transformers asks another process once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

# The names that config classes use, by what they mean.
SIZE_KEYS: dict[str, tuple[str, ...]] = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "d_model": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "context_length"),
    "d_vocab": ("vocab_size",)}


def sizes_in(config: Any) -> dict[str, int]:
    """Return the sizes that a mapping or a configuration object names."""
    found = {}
    for size, keys in SIZE_KEYS.items():
        for key in keys:
            value = config.get(key) if isinstance(config, dict) else getattr(config, key, None)
            if isinstance(value, int) and not isinstance(value, bool):
                found[size] = value
                break
    return found


def library_sizes(config: dict[str, Any]) -> dict[str, int]:
    """Return the sizes that the library's class gives to this configuration; none where it knows no such class."""
    return dict(_asked(json.dumps(config, sort_keys=True)))


@cache
def _asked(config: str) -> tuple[tuple[str, int], ...]:
    if "transformers" in sys.modules:
        return tuple(_by_class(_parsed(config)).items())
    done = subprocess.run([sys.executable, "-m", __name__], input=config, capture_output=True, text=True, check=False)
    return tuple(json.loads(done.stdout).items()) if done.returncode == 0 else ()


def _parsed(config: str) -> dict[str, Any]:
    """Return the JSON of a configuration.  The library writes infinities as objects."""
    value: dict[str, Any] = json.loads(
        config, object_hook=lambda found: float(found["__float__"]) if set(found) == {"__float__"} else found)
    return value


def _by_class(config: dict[str, Any]) -> dict[str, int]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        made = CONFIG_MAPPING[config["model_type"]].from_dict(config)
        return sizes_in(made.get_text_config(decoder=True))
    except Exception:  # classes check their values with errors of many kinds
        return {}


if __name__ == "__main__":
    print(json.dumps(_by_class(_parsed(sys.stdin.read()))))
