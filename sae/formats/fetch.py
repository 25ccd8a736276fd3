"""Resolution of a source that the user named to a local file or folder.  No torch.

A local path is read in place, and a zip file is unpacked into a scratch folder.  Anything else is a
Hugging Face `repo[/folder or file]`.  Only the SAE's own files are downloaded, into the hub's cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sae.errors import UserError
from sae.formats.detect import TENSOR_SUFFIXES, several, weight_files
from sae.formats.untrusted_tensors import is_archive, unpack
from sae.lm.model_info import hub_message, hub_reachable
from sae.workspace.paths import typed_path

Report = Callable[[str], None]  # called with the current activity; may raise to stop
_ADDRESS = re.compile(r"(?:hf://|https://(?:www\.)?huggingface\.co/)")
_REVISION = re.compile(r"^([^/]+/[^/]+)/(?:tree|blob|resolve)/main(?=/|$)")
_CONFIGS = (".json", ".yaml", ".yml")


def fetch(source: str, scratch: Path, report: Report) -> tuple[Path, str]:
    """Return the local path of the source, and its full name, which may contain model and site.

    `scratch` is a folder for unpacked files.  Raises UserError (field `source`).
    """
    path = typed_path(source, "source")
    if is_archive(path):
        report(f"unpacking {path.name}")
        folder = scratch / "unpacked"
        folder.mkdir(parents=True)
        unpack(path, folder)
        return folder, path.stem
    if path.exists():
        return path, str(path.resolve())
    name = hub_name(source)
    return _from_hub(name, report), name


def hub_name(source: str) -> str:
    """Return `owner/repo[/inside]` of a source that is not a local path.  Raises UserError for an invalid name."""
    name = _REVISION.sub(r"\1", _ADDRESS.sub("", source).strip("/"))
    if source.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+(/[^\\]+)?", name) or ".." in name:
        raise UserError(f"source: there is no file or folder {source}", "source")
    return name


def _from_hub(name: str, report: Report) -> Path:
    repo, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    report(f"looking into {repo}")
    try:
        files = _names(repo)
    except Exception as error:  # the hub client raises many kinds for "no network" and "no such repository"
        raise UserError(hub_message("source", repo, error), "source") from None
    below = [file for file in files if not inside or file == inside or file.startswith(inside + "/")]
    found = weight_files(below)
    if not found:
        shown = ", ".join(sorted({str(PurePosixPath(file).parent) for file in files
                                  if file.endswith(TENSOR_SUFFIXES)})[:6]) or "none"
        raise UserError(f"source: {repo} has no SAE under {inside or 'its root'} (folders with tensors: {shown})",
                        "source")
    if len(found) > 1:
        raise several([f"{repo}/{name}" for name in found])
    weights = PurePosixPath(found[0])
    try:
        for companion in _companions(weights, files):
            _download(repo, companion)
        report(f"fetching {repo}/{weights}")
        return Path(_download(repo, str(weights)))
    except UserError:
        raise
    except Exception as error:
        raise UserError(hub_message("source", f"{repo}/{weights}", error), "source") from None


def _companions(weights: PurePosixPath, files: list[str]) -> list[str]:
    """Return the configs that may belong to a weight file, and the small tensors of a training checkpoint."""
    small = {"activation_whitening.safetensors"}
    return [file for file in files if file != str(weights) and (
        (PurePosixPath(file).parent == weights.parent
         and (file.endswith(_CONFIGS) or PurePosixPath(file).name in small))
        or file in [str(weights.parent.parent / name) for name in ("config.json", "hyperparams.json", "config.yaml")])]


def _names(repo: str) -> list[str]:
    """Return the names of the repository's files, or of those in the hub's cache if the hub is not reachable."""
    from huggingface_hub import HfApi, snapshot_download

    if hub_reachable():
        return sorted(HfApi().list_repo_files(repo))
    folder = Path(snapshot_download(repo, local_files_only=True))
    # Files of the cache are links to its blobs, so links are listed too.
    return sorted((Path(parent) / file).relative_to(folder).as_posix()
                  for parent, _, names in os.walk(folder) for file in names)


def _download(repo: str, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(repo, name, local_files_only=not hub_reachable()))


