"""Resolution of a language model's name, and the facts in its config file.  No torch.

A name is `demo` (embedded), a local directory in Hugging Face layout, or a Hugging Face hub name.  The config is read
first, so that a wrong layer is rejected before anything loads.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sae.errors import UserError
from sae.lm.item_files import item_files
from sae.lm.library_config import SIZE_KEYS, library_sizes, sizes_in
from sae.workspace.paths import slug, typed_path

DEMO = "demo"
DEMO_PATH = Path(__file__).parent.parent / "demo" / "model"
NO_LIMIT = 1 << 20  # tokens, for a model that knows no longest text (a recurrent one, for instance)


@dataclass(frozen=True)
class ModelInfo:
    """A language model before it is loaded.  `source` is the name or path that a loader takes."""

    name: str  # as the user wrote it
    id: str  # its segment in addresses
    source: str
    local: bool
    n_layers: int
    d_model: int
    n_ctx: int
    d_vocab: int
    adapter: str = ""  # the folder of a LoRA adapter; `source` is then its base model
    items: bool = False  # vectors of anything instead of a model (`sae.lm.item_files`)


def find_model(name: str) -> ModelInfo:
    """Resolve `name`.  Raises UserError (field `model`) if the model is not available."""
    path = DEMO_PATH if name == DEMO else typed_path(name, "model")
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").exists():
            return _of_adapter(path, name)
        if files := item_files(path):
            return ModelInfo(name, slug(path.resolve().name), str(path.resolve()), True, 1, files[0].width, NO_LIMIT,
                             1 + sum(file.n_items for file in files), items=True)
        config = _read_config(path / "config.json", name)
        return _info(name, DEMO if name == DEMO else slug(path.resolve().name), str(path.resolve()), True, config)
    if path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"model: {name} is not a directory with a Hugging Face model in it", "model")
    source, config = _from_hub(name)
    return _info(name, slug(name.rpartition("/")[2]), source, source != name, config)


def _of_adapter(path: Path, name: str) -> ModelInfo:
    """Return the base model of a LoRA adapter, with the adapter's folder.  Raises UserError (field `model`)."""
    base = _read_config(path / "adapter_config.json", name).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"model: {path / 'adapter_config.json'} does not name the adapter's base model", "model")
    near = path / base if (path / base).is_dir() else typed_path(base, "model")
    if near.is_dir() and not (near / "config.json").exists():
        raise UserError(f"model: the base model of {name}, {near}, has no config.json", "model")
    info = find_model(str(near) if near.is_dir() else base)
    return replace(info, name=name, id=slug(path.resolve().name), adapter=str(path.resolve()))


def check_layer(info: ModelInfo, layer: int, context_length: int) -> None:
    """Raise UserError if the model has no such block (field `layer`) or cannot read so long a context
    (`context_length`).
    """
    if not 0 <= layer < info.n_layers:
        raise UserError(
            f"layer: {info.name} has {info.n_layers} blocks, 0 to {info.n_layers - 1}; there is no block {layer}",
            "layer")
    if context_length > info.n_ctx:
        raise UserError(
            f"context_length: {info.name} reads at most {info.n_ctx} tokens, not {context_length}", "context_length")


def _info(name: str, model_id: str, source: str, local: bool, config: dict[str, Any]) -> ModelInfo:
    if config.get("is_encoder_decoder"):
        raise UserError(f"model: {name} is an encoder-decoder model; only causal language models are read here",
                        "model")
    sizes = sizes_in({**config, **config.get("text_config", {})})
    if len(sizes) < len(SIZE_KEYS):
        sizes = {**library_sizes(config), **sizes}
    sizes.setdefault("n_ctx", NO_LIMIT)
    for size, keys in SIZE_KEYS.items():
        if size not in sizes:
            raise UserError(f"model: the config of {name} has none of {', '.join(keys)}", "model")
    return ModelInfo(name, model_id, source, local, sizes["n_layers"], sizes["d_model"], sizes["n_ctx"],
                     sizes["d_vocab"])


def _read_config(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"model: {name} has no config.json; a Hugging Face model folder has one", "model") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"model: {path} is not JSON: {error}", "model") from None
    if not isinstance(value, dict):
        raise UserError(f"model: {path} is not a JSON object", "model")
    return value


def _from_hub(name: str) -> tuple[str, dict[str, Any]]:
    """Return the source for a loader and the config of a hub name; without a network, from the copy in the hub's
    cache.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        if hub_reachable():
            return name, _read_config(Path(hf_hub_download(name, "config.json")), name)
        folder = snapshot_download(name, local_files_only=True)
        return folder, _read_config(Path(folder) / "config.json", name)
    except HFValidationError:
        raise UserError(f"model: {name!r} is neither a directory here nor a Hugging Face name", "model") from None
    except UserError:
        raise
    except Exception as error:  # the hub client raises many kinds for "no network" and "no such repository"
        raise UserError(hub_message("model", name, error), "model") from None


def hub_reachable() -> bool:
    """Return whether the hub's name resolves.  Without a network the client would retry for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def hub_message(field: str, name: str, error: Exception) -> str:
    """Return one line for a hub name that could not be fetched: what happened and what to do."""
    return (
        f"{field}: {name} is not a local path and could not be fetched from the Hugging Face hub "
        f"({type(error).__name__}). Check the name and the network, or download it elsewhere and give the path of "
        "the local copy.")
