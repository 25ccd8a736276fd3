"""A source as the user names it -> a file or folder here.  No torch.

A local path is read where it lies; a zip file is unpacked into a scratch folder; anything else is a
Hugging Face `repo[/folder or file]`, of which only the SAE's own files are fetched, into the hub's
cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sae.errors import UserError
from sae.formats.detect import TENSOR_SUFFIXES, places_of, several
from sae.formats.untrusted_tensors import is_archive, unpack
from sae.lm.model_info import hub_message, hub_reachable
from sae.workspace.paths import typed_path

Tell = Callable[[str], None]  # what is being done; may raise to stop
_ADDRESS = re.compile(r"(?:hf://|https://(?:www\.)?huggingface\.co/)")
_REVISION = re.compile(r"^([^/]+/[^/]+)/(?:tree|blob|resolve)/main(?=/|$)")
_CONFIGS = (".json", ".yaml", ".yml")


def fetch(source: str, scratch: Path, tell: Tell) -> tuple[Path, str]:
    """(where it is now, what the place is called, from which model and site may be read).
    `scratch` is a folder for what has to be unpacked.  Raises UserError (field `source`)."""
    path = typed_path(source, "source")
    if is_archive(path):
        tell(f"unpacking {path.name}")
        folder = scratch / "unpacked"
        folder.mkdir(parents=True)
        unpack(path, folder)
        return folder, path.stem
    if path.exists():
        return path, str(path.resolve())
    name = hub_name(source)
    return _from_hub(name, tell), name


def hub_name(source: str) -> str:
    """`owner/repo[/inside]`, of what is no local path.  Raises UserError where it cannot be one."""
    name = _REVISION.sub(r"\1", _ADDRESS.sub("", source).strip("/"))
    if source.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+(/[^\\]+)?", name) or ".." in name:
        raise UserError(f"source: there is no file or folder {source}", "source")
    return name


def _from_hub(name: str, tell: Tell) -> Path:
    repo, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    tell(f"looking into {repo}")
    try:
        files = _names(repo)
    except Exception as error:  # the hub client raises many kinds for "no network" and "no such repository"
        raise UserError(hub_message("source", repo, error), "source") from None
    below = [file for file in files if not inside or file == inside or file.startswith(inside + "/")]
    places = places_of(below)
    if not places:
        shown = ", ".join(sorted({str(PurePosixPath(file).parent) for file in files
                                  if file.endswith(TENSOR_SUFFIXES)})[:6]) or "none"
        raise UserError(f"source: {repo} has no SAE under {inside or 'its root'} (folders with tensors: {shown})",
                        "source")
    if len(places) > 1:
        raise several([f"{repo}/{place}" for place in places])
    weights = PurePosixPath(places[0])
    try:
        for beside in _beside(weights, files):
            _download(repo, beside)
        tell(f"fetching {repo}/{weights}")
        return Path(_download(repo, str(weights)))
    except UserError:
        raise
    except Exception as error:
        raise UserError(hub_message("source", f"{repo}/{weights}", error), "source") from None


def _beside(weights: PurePosixPath, files: list[str]) -> list[str]:
    """The configs that may belong to a file of weights, and the small tensors of a training checkpoint."""
    small = {"activation_whitening.safetensors"}
    return [file for file in files if file != str(weights) and (
        (PurePosixPath(file).parent == weights.parent
         and (file.endswith(_CONFIGS) or PurePosixPath(file).name in small))
        or file == str(weights.parent.parent / "config.json"))]


def _names(repo: str) -> list[str]:
    """The repository's files: the hub's list, or without a network those in its cache."""
    from huggingface_hub import HfApi, snapshot_download

    if hub_reachable():
        return sorted(HfApi().list_repo_files(repo))
    folder = Path(snapshot_download(repo, local_files_only=True))
    # The cache's files are links to its blobs.
    return sorted((Path(parent) / file).relative_to(folder).as_posix()
                  for parent, _, names in os.walk(folder) for file in names)


def _download(repo: str, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(repo, name, local_files_only=not hub_reachable()))


