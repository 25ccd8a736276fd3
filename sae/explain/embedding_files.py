"""The files of static word embeddings: a folder, or those of the extra `embedding`.  No torch, and no library."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sae.explain.endpoint_settings import secret

PACKAGE = "wordllama"  # of the extra: it has its weights in the wheel
SETTING = "SAESCOPE_EMBEDDING_MODEL"


def package_files() -> tuple[Path, Path] | None:
    """Return the files of weights and tokenizer in the package of the extra, or None.  It is not imported."""
    found = find_spec(PACKAGE)
    for folder in map(Path, found.submodule_search_locations or () if found is not None else ()):
        weights, tokenizers = sorted(folder.glob("weights/*.safetensors")), sorted(folder.glob("tokenizers/*.json"))
        if weights and tokenizers:
            return weights[0], tokenizers[0]
    return None


def embedder_folder(folder: str = "") -> str:
    """Return the folder, or without one that of `SAESCOPE_EMBEDDING_MODEL`, or ""."""
    return folder or secret(SETTING)


def has_embedder(folder: str = "") -> bool:
    """Return whether there are embeddings, without reading them."""
    folder = embedder_folder(folder)
    return Path(folder).is_dir() if folder else package_files() is not None
